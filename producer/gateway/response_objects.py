"""Objects and events of the Responses API, made of a call and the events of its job. Pure.

Source: OpenAI's API reference, and the schema of Open Responses. The sequence number of an event is its number
among the parts that the job's events make, and so has no gap, and is the same whenever it is made again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ..contract import GenerationResult, InvalidRequest, Started, StreamedEvent, TokenLogprob, Tokens, TokensData
from ..contract.views.stream_view import StreamView
from .calls import Call
from .chunks import ended_well
from .errors import ApiError
from .sse import sse

CANCELLED, COMPLETED, FAILED, INCOMPLETE = "cancelled", "completed", "failed", "incomplete"


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


def ended_object(
    call: Call, result: GenerationResult, logprobs: Sequence[TokenLogprob] | None, *, has_begun: bool | None = None
) -> dict[str, Any]:
    """The object of a job that has ended, in whatever way.

    has_begun: whether there was an answer; None: as the result tells.
    """
    status = status_of(result)
    if has_begun is None:
        has_begun = result.status == "finished" or bool(result.token_ids)
    item = message_item(
        call, said_by(result), logprobs_of(result.token_ids, logprobs), _ITEM_STATUS.get(status, INCOMPLETE)
    )
    return response_object(
        call,
        status,
        output=[item] if has_begun else [],
        completed_at=completed_at(call, result) if status == COMPLETED else None,
        error=error_of(result),
        incomplete_details={"reason": "max_output_tokens"} if status == INCOMPLETE else None,
        usage=usage(result),
    )


_ITEM_STATUS = {COMPLETED: COMPLETED}


def said_by(result: GenerationResult) -> str:
    """What is said, without what was thought before."""
    return result.text if result.content is None else result.content


def status_of(result: GenerationResult) -> str:
    """OpenAI's word for how it ended."""
    if result.status == "finished":
        return INCOMPLETE if result.truncated else COMPLETED
    return CANCELLED if result.status == "cancelled" else FAILED


def message_item(call: Call, text: str | None, logprobs: list[dict[str, Any]], status: str) -> dict[str, Any]:
    """The one output item.  text: None where it has not begun."""
    content = [] if text is None else [text_part(text, logprobs)]
    return {"type": "message", "id": item_id(call), "status": status, "role": "assistant", "content": content}


def item_id(call: Call) -> str:
    """Of the output item."""
    return f"msg_{call.id}"


def text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Its one part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


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
        self._logprobs: list[TokenLogprob] = []
        self._has_begun = False
        self._result: GenerationResult | None = None

    def head(self) -> Iterator[dict[str, Any]]:
        """It was taken in."""
        for kind in ("created", "queued"):
            yield {"type": f"response.{kind}", "response": response_object(self._call, "queued")}

    def of(self, _: int, streamed: StreamedEvent) -> Iterator[dict[str, Any]]:
        """What an event of the job makes."""
        event = streamed.event
        if isinstance(event, Started):
            self._view.hear(event)
            yield from self._begin() if streamed.id.seq == 0 else ()
        elif isinstance(event, Tokens):
            more = self._view.hear(event)
            yield from self._delta(more.content if more else None, event.data)
        else:
            if not self._has_begun and not self.is_eager:
                ended_well(event.data)
            more = self._view.hear(event)
            yield from self._delta(more.content if more else None, None) if self._has_begun else ()
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

    def _begin(self) -> Iterator[dict[str, Any]]:
        self._has_begun = True
        yield {"type": "response.in_progress", "response": response_object(self._call, "in_progress")}
        item = message_item(self._call, None, [], "in_progress")
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        yield {"type": "response.content_part.added", **self._place(), "part": text_part("", [])}

    def _delta(self, text: str | None, data: TokensData | None) -> Iterator[dict[str, Any]]:
        """More of what is said.  data: the tokens that it came with."""
        tokens = data.logprobs or () if data is not None and self._call.logprobs else ()
        self._logprobs += tokens
        logprobs = logprobs_of(data.ids, tokens) if data is not None else []
        if text or logprobs:
            place = self._place()
            yield {"type": "response.output_text.delta", **place, "delta": text or "", "logprobs": logprobs}

    def _end(self, result: GenerationResult) -> Iterator[dict[str, Any]]:
        logprobs = self._logprobs if self._call.logprobs else None
        whole = ended_object(self._call, result, logprobs, has_begun=self._has_begun)
        if self._has_begun:
            item = whole["output"][0]
            part = item["content"][0]
            place = self._place()
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            yield {"type": "response.output_text.done", **place, **done}
            yield {"type": "response.content_part.done", **place, "part": part}
            yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        status = INCOMPLETE if whole["status"] == CANCELLED else whole["status"]  # OpenAI has no event for it
        yield {"type": f"response.{status}", "response": whole}

    def _place(self) -> dict[str, Any]:
        return {"item_id": item_id(self._call), "output_index": 0, "content_index": 0}
