"""Objects and events of the Responses API, made of a call and the events of its job. Pure.

Source: OpenAI's API reference, and the schema of Open Responses. The sequence number of an event is its number
among the parts that the job's events make, and so has no gap, and is the same whenever it is made again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ..contract import GenerationResult, InvalidRequest, Started, StreamedEvent, TokenLogprob, Tokens, TokensData
from ..contract.markup import Markup
from ..contract.views.draft import Part
from ..contract.views.stream_view import StreamView
from .calls import Call
from .chunks import ended_well
from .errors import ApiError
from .output_items import COMPLETED, INCOMPLETE, Events, Output
from .sse import sse

CANCELLED, FAILED = "cancelled", "failed"


def response_object(call: Call, status: str, **changed: Any) -> dict[str, Any]:
    """The object, as it is while nothing is known of its end."""
    return {
        "id": call.public_id,
        "object": "response",
        "created_at": call.created,
        "completed_at": None,
        "status": status,
        "model": call.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "tools": [],
        "truncation": "disabled",
        "text": {"format": {"type": "text"}},
        "reasoning": None,
        "max_tool_calls": None,
        **(call.response or {}),
        **changed,
    }


def ended_object(call: Call, result: GenerationResult, output: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The object of a job that has ended, in whatever way."""
    status = status_of(result)
    return response_object(
        call,
        status,
        output=list(output),
        completed_at=completed_at(call, result) if status == COMPLETED else None,
        error=error_of(result),
        incomplete_details={"reason": "max_output_tokens"} if status == INCOMPLETE else None,
        usage=usage(result),
    )


def plain_object(call: Call, result: GenerationResult) -> dict[str, Any] | None:
    """The same, made of the result alone. None where the job's events must be read, for what is not in it."""
    has_parts = bool(result.tool_calls) or result.reasoning is not None
    is_plain = result.status == "finished" or bool(result.token_ids)
    return None if call.logprobs or has_parts or not is_plain else object_in_order(call, result)


def object_in_order(
    call: Call, result: GenerationResult, logprobs: Sequence[TokenLogprob] | None = None
) -> dict[str, Any]:
    """The same, made without the job's events: what was thought, said and called, in that order.

    logprobs: of all tokens. They are left out of an answer that does more than say something, as which of them are
    of what is said is not known.
    """
    output = Output(call.id)
    parts = list(_parts_of(result))
    said = logprobs_of(result.token_ids, logprobs) if [part.kind for part in parts] == ["content"] else []
    for part in parts:
        for _ in output.more(part, said if part.kind == "content" else ()):
            pass
    for _ in output.end(item_status(result)):
        pass
    return ended_object(call, result, output.items)


def _parts_of(result: GenerationResult) -> Iterator[Part]:
    calls = result.tool_calls or ()
    if result.reasoning is not None:
        yield Part("reasoning", result.reasoning)
    content = result.text if result.content is None and result.reasoning is None and not calls else result.content
    if content is not None:
        yield Part("content", content)
    for number, each in enumerate(calls):
        yield Part("name", each.function.name, number)
        yield Part("arguments", each.function.arguments, number)


def item_status(result: GenerationResult) -> str:
    """Of the item with which the answer ended."""
    return COMPLETED if status_of(result) == COMPLETED else INCOMPLETE


def status_of(result: GenerationResult) -> str:
    """OpenAI's word for how it ended."""
    if result.status == "finished":
        return INCOMPLETE if result.truncated else COMPLETED
    return CANCELLED if result.status == "cancelled" else FAILED


def logprobs_of(token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> list[dict[str, Any]]:
    """Of some tokens, which are called by their ids, as in a chat completion."""
    return [
        {
            **_token(token_id, each.logprob),
            "top_logprobs": [_token(other, logprob) for other, logprob in each.top],
        }
        for token_id, each in zip(token_ids, logprobs or (), strict=False)
    ]


def _token(token_id: int, logprob: float) -> dict[str, Any]:
    return {"token": f"token_id:{token_id}", "logprob": logprob, "bytes": []}


def usage(result: GenerationResult) -> dict[str, Any]:
    """Of a job."""
    used = result.usage
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def completed_at(call: Call, result: GenerationResult) -> int:
    """Unix seconds, as the job's own timings tell: a stream has no clock."""
    times = result.timings
    spent_ms = sum(each or 0.0 for each in (times.queued_ms, times.prefill_ms, times.decode_ms))
    return call.created + round(spent_ms / 1000)


def error_of(result: GenerationResult) -> dict[str, Any] | None:
    """Why it failed, in OpenAI's form."""
    if status_of(result) != FAILED:
        return None
    code = "invalid_prompt" if isinstance(result.failure, InvalidRequest) else "server_error"
    return {"code": code, "message": str(result.failure)}


class ResponseEvents:
    """The events of one response.

    is_eager: the first are sent before anything is known of the job. Otherwise one that is refused is an ApiError.
    """

    def __init__(self, call: Call, *, is_eager: bool) -> None:
        self._call = call
        self.is_eager = is_eager
        self._view = StreamView(call.id)
        self._output = Output(call.id)
        self._logprobs: list[dict[str, Any]] = []
        """Of tokens of which it is not known yet whether something is said with them."""
        self._has_begun = False

    def head(self) -> Events:
        """It was taken in."""
        for kind in ("created", "queued"):
            yield {"type": f"response.{kind}", "response": response_object(self._call, "queued")}

    def of(self, _: int, streamed: StreamedEvent) -> Events:
        """What an event of the job makes."""
        event = streamed.event
        parts = self._view.hear_parts(event)
        if isinstance(event, Started):
            yield from self._begin(event.data.markup) if streamed.id.seq == 0 else ()
        elif isinstance(event, Tokens):
            yield from self._more(parts, event.data)
        else:
            if not self._has_begun and not self.is_eager:
                ended_well(event.data, "responses")
            yield from self._more(parts, None)
            yield from self._end(event.data)

    def tail(self) -> Iterator[Any]:
        """Nothing: the last event says how it ended."""
        yield from ()

    def encode(self, part: dict[str, Any], event_id: str) -> bytes:
        """With its number and its name."""
        return sse({**part, "sequence_number": int(event_id)}, event_id, part["type"])

    def told(self, error: ApiError) -> bytes:
        """An `error` event."""
        said = {"code": error.code, "message": error.message, "param": error.param}
        return sse({"type": "error", **said, "error": {"type": error.kind, **said}}, name="error")

    def _begin(self, markup: Markup | None) -> Events:
        self._has_begun = True
        yield {"type": "response.in_progress", "response": response_object(self._call, "in_progress")}
        if markup is None or not (markup.tool_calls or markup.reasoning):  # all that comes is said
            yield from self._output.begin_message()

    def _more(self, parts: Sequence[Part], data: TokensData | None) -> Events:
        """More of the answer.  data: the tokens that it came with."""
        own = logprobs_of(data.ids, data.logprobs) if data is not None and self._call.logprobs else []
        for part in parts:
            is_said = part.kind == "content"
            yield from self._output.more(part, [*self._logprobs, *own] if is_said else ())
            self._logprobs, own = [], [] if is_said else own
        if not parts and self._output.says_or_is_empty:
            self._logprobs += own

    def _end(self, result: GenerationResult) -> Events:
        if self._has_begun:
            if self._output.is_empty:
                yield from self._output.begin_message()
            yield from self._output.more_logprobs(self._logprobs)
            yield from self._output.end(item_status(result))
        whole = ended_object(self._call, result, self._output.items)
        status = INCOMPLETE if whole["status"] == CANCELLED else whole["status"]  # OpenAI has no event for it
        yield {"type": f"response.{status}", "response": whole}
