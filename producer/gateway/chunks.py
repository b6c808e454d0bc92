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
    Started,
    StreamedEvent,
    TokenLogprob,
    Tokens,
    TokensData,
)
from ..contract.views.stream_view import StreamView
from .calls import NAMES_OF, Call, Kind
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
        self._views = [StreamView(job_id) for job_id in call.job_ids]
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
        """The chunks that an event of that answer makes, if any.  Raises ApiError where the job has failed."""
        event = streamed.event
        if isinstance(event, Started | Tokens):
            if self._call.kind == "chat":
                yield from self._said(number, streamed)
            elif isinstance(event, Tokens):
                yield from self._text(number, event.data)
            return
        self._results[number] = ended_well(event.data, self._call.kind)
        reason = finish_reason(event.data)
        if self._call.kind == "chat":
            yield from self._said(number, streamed)
            yield self._delta(number, {}, reason)
        else:
            yield self._choice({"index": number, "text": "", "logprobs": None, "finish_reason": reason})

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

    def _said(self, number: int, streamed: StreamedEvent) -> Iterator[dict[str, Any]]:
        """Of a chat: more of what is said, thought and called."""
        event = streamed.event
        if isinstance(event, Started) and streamed.id.seq == 0:
            yield self._delta(number, {"role": "assistant", "content": "", "refusal": None})
        more = self._views[number].hear(event)
        logprobs = self._logprobs_of(event.data) if isinstance(event, Tokens) else None
        if more is not None:
            yield self._delta(number, more.model_dump(exclude_none=True), None, logprobs)
        elif logprobs is not None:
            yield self._delta(number, {"content": ""}, None, logprobs)

    def _text(self, number: int, data: TokensData) -> Iterator[dict[str, Any]]:
        logprobs = self._logprobs_of(data)
        if data.text or logprobs is not None:
            yield self._choice({"index": number, "text": data.text, "logprobs": logprobs, "finish_reason": None})

    def _logprobs_of(self, data: TokensData) -> dict[str, Any] | None:
        if not data.logprobs or not self._call.logprobs:
            return None
        made = chat_logprobs if self._call.kind == "chat" else completion_logprobs
        return made(data.ids, data.logprobs)

    def _delta(
        self, number: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        return self._choice({"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason})

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._frame, "choices": [choice]}


def frame_of(call: Call) -> dict[str, Any]:
    """What an answer has before anything is known of it."""
    return {
        "id": call.public_id,
        "object": "chat.completion" if call.kind == "chat" else "text_completion",
        "created": call.created,
        "model": call.model,
    }


def whole(call: Call, ended: Sequence[tuple[GenerationResult, Sequence[TokenLogprob] | None]]) -> dict[str, Any]:
    """An answer that is complete.  ended: how each of its jobs ended, with its log-probabilities."""
    choice = chat_choice if call.kind == "chat" else completion_choice
    kept = {name: value for name in ("service_tier", "metadata") if (value := getattr(call, name)) is not None}
    return {
        **frame_of(call),
        "choices": [choice(number, *each) for number, each in enumerate(ended)],
        "usage": usage_of_call(call, [result for result, _ in ended]),
        "system_fingerprint": None,
        **kept,
    }


def ended_well(result: GenerationResult, kind: Kind) -> GenerationResult:
    """Raises ApiError for a job that failed or was cancelled."""
    try:
        return result.raise_for_status()
    except GenqueueError as error:
        raise api_error(error, NAMES_OF[kind]) from None


def usage_of_call(call: Call, results: Sequence[GenerationResult]) -> dict[str, Any]:
    """Of all its answers. The prompt of several answers of a chat counts once."""
    usage = usage_of([result.usage for result in results])
    if call.kind == "chat" and results:
        first = results[0].usage
        usage["prompt_tokens"] = first.prompt_tokens
        usage["total_tokens"] = first.prompt_tokens + usage["completion_tokens"]
        usage["prompt_tokens_details"] = {"cached_tokens": first.cached_tokens}
    return usage
