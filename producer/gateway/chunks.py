"""Events of a call's jobs, as the chunks of OpenAI's streams. Pure: made again they are the same."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..batch.openai_answers import (
    chat_choice,
    chat_logprobs,
    completion_choice,
    completion_logprobs,
    finish_reason,
    usage_of,
)
from ..contract import (
    GenerationResult,
    GenqueueError,
    InvalidRequest,
    Started,
    StreamedEvent,
    TokenLogprob,
    Tokens,
    TokensData,
)
from .calls import Call
from .errors import ApiError, api_error
from .sse import DONE, sse

OBJECT = {"chat": "chat.completion.chunk", "completions": "text_completion"}


class Parts(Protocol):
    """How the events of a call's jobs become the parts of a stream, which are numbered in their order."""

    @property
    def is_eager(self) -> bool:
        """Whether what comes first is sent before anything is known of the jobs."""

    def head(self) -> Iterator[Mapping[str, Any]]:
        """What comes first."""

    def of(self, number: int, streamed: StreamedEvent) -> Iterator[Mapping[str, Any]]:
        """What an event of that answer makes.  Raises ApiError where the job has failed."""

    def tail(self) -> Iterator[Any]:
        """What comes behind all answers."""

    def encode(self, part: Any, event_id: str) -> bytes:
        """One of them, as it is sent."""

    def told(self, error: ApiError) -> bytes:
        """What has gone wrong, once a part has been sent. It has no id: whoever comes back is told again."""


class Chunks:
    """The chunks of one call."""

    is_eager = False

    def __init__(self, call: Call) -> None:
        self._call = call
        self._results: dict[int, GenerationResult] = {}
        self._frame: dict[str, Any] = {
            "id": call.public_id,
            "object": OBJECT[call.kind],
            "created": call.created,
            "model": call.model,
            **({"usage": None} if call.include_usage else {}),
            **({"service_tier": call.service_tier} if call.service_tier else {}),
        }

    def head(self) -> Iterator[dict[str, Any]]:
        """Nothing: the first chunk is that of the first event."""
        yield from ()

    def of(self, number: int, streamed: StreamedEvent) -> Iterator[dict[str, Any]]:
        """The chunk that an event of that answer makes, if any.  Raises ApiError where the job has failed."""
        if (chunk := self._chunk(number, streamed)) is not None:
            yield chunk

    def _chunk(self, number: int, streamed: StreamedEvent) -> dict[str, Any] | None:
        event = streamed.event
        if isinstance(event, Started):
            is_first = streamed.id.seq == 0 and self._call.kind == "chat"
            return self._chat(number, {"role": "assistant", "content": "", "refusal": None}) if is_first else None
        if isinstance(event, Tokens):
            return self._tokens(number, event.data)
        self._results[number] = ended_well(event.data)
        reason = finish_reason(event.data)
        return self._chat(number, {}, reason) if self._call.kind == "chat" else self._text(number, "", reason)

    def tail(self) -> Iterator[Any]:
        """What comes behind all answers: what they have cost, if that was asked for, and `[DONE]`."""
        if self._call.include_usage:
            results = [self._results[number] for number in sorted(self._results)]
            yield {**self._frame, "choices": [], "usage": usage_of_call(self._call, results)}
        yield DONE

    def encode(self, part: Any, event_id: str) -> bytes:
        """Plain data."""
        return sse(part, event_id)

    def told(self, error: ApiError) -> bytes:
        """As openai-python reads it."""
        return sse(error.body)

    def _tokens(self, number: int, data: TokensData) -> dict[str, Any] | None:
        if not data.text and not (data.logprobs and self._call.logprobs):
            return None
        if self._call.kind == "chat":
            logprobs = chat_logprobs(data.ids, data.logprobs) if data.logprobs else None
            return self._chat(number, {"content": data.text}, None, logprobs)
        logprobs = completion_logprobs(data.ids, data.logprobs) if data.logprobs else None
        return self._text(number, data.text, None, logprobs)

    def _chat(
        self, number: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._frame, "choices": [choice]}

    def _text(self, number: int, text: str, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return {**self._frame, "choices": [choice]}


def whole(call: Call, ended: Sequence[tuple[GenerationResult, Sequence[TokenLogprob] | None]]) -> dict[str, Any]:
    """An answer that is complete.  ended: how each of its jobs ended, with its log-probabilities."""
    choice = chat_choice if call.kind == "chat" else completion_choice
    kept = {name: value for name in ("service_tier", "metadata") if (value := getattr(call, name)) is not None}
    return {
        "id": call.public_id,
        "object": "chat.completion" if call.kind == "chat" else "text_completion",
        "created": call.created,
        "model": call.model,
        "choices": [choice(number, *each) for number, each in enumerate(ended)],
        "usage": usage_of_call(call, [result for result, _ in ended]),
        "system_fingerprint": None,
        **kept,
    }


def ended_well(result: GenerationResult) -> GenerationResult:
    """Raises ApiError for a job that failed or was cancelled."""
    try:
        return result.raise_for_status()
    except InvalidRequest as error:
        raise api_error(error, {"max_new_tokens": "max_tokens"}) from None
    except GenqueueError as error:
        raise api_error(error) from None


def usage_of_call(call: Call, results: Sequence[GenerationResult]) -> dict[str, Any]:
    """Of all its answers. The prompt of several answers of a chat counts once."""
    usage = usage_of([result.usage for result in results])
    if call.kind == "chat" and results:
        first = results[0].usage
        usage["prompt_tokens"] = first.prompt_tokens
        usage["total_tokens"] = first.prompt_tokens + usage["completion_tokens"]
        usage["prompt_tokens_details"] = {"cached_tokens": first.cached_tokens}
    return usage
