"""What a worker answers: the event union of a job's stream, and GenerationResult, which ends it.

A stream entry has two fields, `type` and `data` (compact JSON, UTF-8); its id is `<attempt>-<seq>`.
`seq` starts at 0 and is gapless over the job's whole life; `attempt` grows with every worker that takes the job.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, TypeAdapter

from .errors import ErrorCode, InvalidRequest, JobCancelled, job_error
from .requests import Frozen

Status = Literal["finished", "failed", "cancelled"]
FinishReason = Literal["stop", "length", "cancelled", "error"]


class EventId(NamedTuple):
    """`<attempt>-<seq>`: the cursor, the order and the fence in one. Ordered as Redis orders stream ids."""

    attempt: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """From the form on the wire.  Raises InvalidRequest when it is not one."""
        if isinstance(text, bytes):
            text = text.decode()
        match = re.fullmatch(r"(\d{1,19})-(\d{1,19})", text)
        if not match:
            raise InvalidRequest(f"event id {text[:40]!r} is not valid: it has the form <attempt>-<seq>, as 1-7")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


BEFORE_FIRST = EventId(0, 0)
"""The cursor before every event: attempts start at 1."""


class Usage(Frozen):
    """Token counts of a job."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens whose KV entries were reused from an earlier job."""


class Timings(Frozen):
    """Where the time went, in milliseconds, for the attempt that ended the job."""

    queued_ms: float | None = None
    """From being enqueued to being taken by a worker."""
    prefill_ms: float | None = None
    decode_ms: float | None = None
    """From the first token to the last."""
    time_to_first_token_ms: float | None = None
    """From being taken by a worker to the first token."""
    tokens_per_second: float | None = None
    """Decoded tokens (all but the first) over decode_ms."""


class ErrorInfo(Frozen):
    """Why a job failed."""

    code: ErrorCode
    message: str


class TokenLogprob(Frozen):
    """Log-probabilities at one position, from the model's logits before any processor."""

    logprob: float
    """Of the token that was chosen."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with theirs, best first."""


class GenerationResult(Frozen):
    """How a job ended. A cancelled or failed job keeps the text that it had.

    token_ids holds every generated id, eos included. text leaves out special tokens (unless asked for) and a
    matched stop string with all that follows it.
    """

    job_id: str
    status: Status
    model: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason
    stop: str | None = None
    """The stop string that matched, if one did."""
    seed: int | None = None
    usage: Usage = Usage()
    timings: Timings = Timings()
    attempts: int = 1
    worker: str | None = None
    error: ErrorInfo | None = None

    def raise_for_status(self) -> Self:
        """Return self when the job finished.  Raises JobCancelled or the JobError of its error code."""
        if self.status == "cancelled":
            raise JobCancelled(f"job {self.job_id} was cancelled")
        if self.error is not None:
            raise job_error(self.error.code, self.error.message)
        return self


class StartedData(Frozen):
    """A worker took the job."""

    attempt: int
    worker: str
    model: str
    prompt_tokens: int
    resumed_tokens: int = 0
    """Tokens of earlier attempts that this one goes on from."""
    seed: int


class TokensData(Frozen):
    """Tokens, in order.

    The last of a job that is cut short, because it was cancelled or ran out of time, may carry text without ids:
    what had been held back.
    """

    index: int
    """Position in the output of the first id."""
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class Started(Frozen):
    """Event: a worker took the job."""

    type: Literal["started"] = "started"
    data: StartedData


class Tokens(Frozen):
    """Event: tokens were generated."""

    type: Literal["tokens"] = "tokens"
    data: TokensData


class Finished(Frozen):
    """Event: the job ended well."""

    type: Literal["finished"] = "finished"
    data: GenerationResult


class Failed(Frozen):
    """Event: the job ended in an error."""

    type: Literal["failed"] = "failed"
    data: GenerationResult


class Cancelled(Frozen):
    """Event: the job was cancelled."""

    type: Literal["cancelled"] = "cancelled"
    data: GenerationResult


TerminalEvent = Finished | Failed | Cancelled
Event = Annotated[Started | Tokens | Finished | Failed | Cancelled, Field(discriminator="type")]

_EVENT: TypeAdapter[Started | Tokens | Finished | Failed | Cancelled] = TypeAdapter(Event)
_TERMINAL: dict[Status, type[TerminalEvent]] = {
    "finished": Finished,
    "failed": Failed,
    "cancelled": Cancelled,
}
TERMINAL_TYPES = frozenset(_TERMINAL)


class StreamedEvent(NamedTuple):
    """An event with its id: the cursor from which a subscriber goes on."""

    id: EventId
    event: Started | Tokens | Finished | Failed | Cancelled

    @property
    def is_terminal(self) -> bool:
        """Whether this event ends the job."""
        return self.event.type in TERMINAL_TYPES

    def to_json(self) -> str:
        """`{"id", "type", "data"}`, the form on the Pub/Sub channel and of `stream --json`."""
        return mirror_json(str(self.id), self.event.type, data_json(self.event))


def terminal_event(result: GenerationResult) -> TerminalEvent:
    """The event that ends a job with that result."""
    return _TERMINAL[result.status](data=result)


def data_json(event: Started | Tokens | Finished | Failed | Cancelled) -> str:
    """The `data` field of a stream entry: compact JSON."""
    # A tokens event without logprobs leaves the key out: it is the one event that is sent per token.
    return event.data.model_dump_json(exclude={"logprobs"} if getattr(event.data, "logprobs", 0) is None else None)


def mirror_json(event_id: str, event_type: str, data: str) -> str:
    """The message on the Pub/Sub channel. `data` is JSON already and is not parsed again."""
    return f'{{"id":"{event_id}","type":"{event_type}","data":{data}}}'


def parse_entry(entry_id: str | bytes, fields: Mapping[bytes, bytes]) -> StreamedEvent:
    """From a stream entry as redis-py returns it."""
    event_type, data = fields[b"type"].decode(), fields[b"data"].decode()
    event = _EVENT.validate_json(f'{{"type":"{event_type}","data":{data}}}')
    return StreamedEvent(EventId.parse(entry_id), event)


def encode_entry(event: Started | Tokens | Finished | Failed | Cancelled) -> dict[str, Any]:
    """To the fields of a stream entry."""
    return {"type": event.type, "data": data_json(event)}
