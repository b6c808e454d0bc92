"""What a worker answers: the event union of a job's stream, and GenerationResult, which ends it.

A stream entry has two fields, `type` and `data` (compact JSON, UTF-8); its id is `<attempt>-<seq>`.
`seq` starts at 0 and is gapless over the job's whole life; `attempt` grows with every worker that takes the job.

What a worker wrote is read tolerantly: it may be of a later version. Fields that are not known here are passed
over, an event of another type is an UnknownEvent, and a status, reason or code of another value is read as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from .chat import FunctionCallParam, Message, ToolCallParam
from .errors import ErrorCode, InvalidRequest, JobCancelled, JobError, job_error
from .markup import Markup, ToolCall
from .tolerant import Tolerant

Status = Literal["finished", "failed", "cancelled"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


MAX_ID_PART = 2**64 - 1
"""Redis' own bound on either part of an entry's id."""
_ID_DIGITS = len(str(MAX_ID_PART))


class EventId(NamedTuple):
    """`<attempt>-<seq>`: the cursor, the order and the fence in one. Ordered as Redis orders stream ids."""

    attempt: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """From the form on the wire.  Raises InvalidRequest when it is not one."""
        if isinstance(text, bytes):
            text = text.decode()
        attempt, dash, seq = text.partition("-")
        if dash and _is_id_part(attempt) and _is_id_part(seq):
            event_id = cls(int(attempt), int(seq))
            if event_id.attempt <= MAX_ID_PART and event_id.seq <= MAX_ID_PART:
                return event_id
        raise InvalidRequest(f"event id {text[:40]!r} is not valid: it has the form <attempt>-<seq>, as 1-7")

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


def _is_id_part(text: str) -> bool:
    return len(text) <= _ID_DIGITS and text.isdecimal()


BEFORE_FIRST = EventId(0, 0)
"""The cursor before every event: attempts start at 1."""


class Usage(Tolerant):
    """Token counts of a job."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens whose KV entries were reused from an earlier job."""


class Timings(Tolerant):
    """Where the time went, in milliseconds, for the attempt that ended the job."""

    queued_ms: float | None = None
    """From being enqueued to being taken by a worker."""
    prefill_ms: float | None = None
    decode_ms: float | None = None
    """From the first token to the last."""
    time_to_first_token_ms: float | None = None
    """From the attempt's beginning, a moment after its worker took the job, to the first token."""
    tokens_per_second: float | None = None
    """Decoded tokens (all but the first) over decode_ms."""
    parked_ms: float | None = None
    """For how long it waited for jobs of a higher priority, which is in none of the other figures. None for a job
    that did not, which is left out on the wire."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if written.get("parked_ms", 0) is None:
            del written["parked_ms"]
        return written


class ErrorInfo(Tolerant):
    """Why a job failed."""

    code: ErrorCode | str
    message: str


class TokenLogprob(Tolerant):
    """Log-probabilities at one position, from the model's logits before any processor."""

    logprob: float
    """Of the token that was chosen."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with theirs, best first."""


_PARTS = frozenset({"content", "reasoning", "tool_calls"})


class GenerationResult(Tolerant):
    """How a job ended. A cancelled or failed job keeps the text that it had.

    token_ids holds every generated id, eos included. text leaves out special tokens (unless asked for) and a
    matched stop string with all that follows it.
    """

    job_id: str
    status: Status | str
    model: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | str
    stop: str | None = None
    """The stop string that matched, if one did."""
    seed: int | None = None
    usage: Usage = Usage()
    timings: Timings = Timings()
    attempts: int = 1
    worker: str | None = None
    error: ErrorInfo | None = None
    content: str | None = None
    """Of the text what is said, without calls and reasoning. None: all of it."""
    reasoning: str | None = None
    """Of the text what the model thought before it answered, without its tags."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """Of the text what the model has called. The last one may be cut off where the text is."""

    @model_serializer(mode="wrap")
    def _without_parts_that_are_not_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that a result without them is what it was before there were any."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _PARTS}

    @property
    def message(self) -> Message:
        """The answer as the next turn of its chat, to be appended to `messages`."""
        # Not validated: it is what a worker wrote, who may be of a later version. Sent back, it is.
        calls = tuple(
            ToolCallParam.model_construct(
                id=call.id, function=FunctionCallParam.model_construct(**call.function.model_dump())
            )
            for call in self.tool_calls or ()
        )
        content = self.text if self.content is None else self.content
        return Message.model_construct(
            role="assistant", content=content, reasoning=self.reasoning, tool_calls=calls
        )

    def raise_for_status(self) -> Self:
        """Return self when the job finished.  Raises JobCancelled or the JobError of its error code."""
        if self.status == "cancelled":
            raise JobCancelled(f"job {self.job_id} was cancelled", job_id=self.job_id)
        if self.error is not None or self.status != "finished":
            raise self.failure
        return self

    @property
    def parsed(self) -> Any:
        """The answer as JSON, as `response_format` asks for.  Raises ValueError where it is none, or was cut."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            why = "was cut off by max_new_tokens" if self.truncated else "is no JSON"
            raise ValueError(f"the text of job {self.job_id} {why}: {error}") from error

    @property
    def truncated(self) -> bool:
        """Whether the text was cut off at max_new_tokens, or where the context was full."""
        return self.finish_reason == "length"

    @property
    def failure(self) -> JobError:
        """Why the job did not finish, as an error. A later version may know ways to end that are none of ours."""
        if self.error is not None:
            return job_error(self.error.code, self.error.message, job_id=self.job_id)
        ended = f"job {self.job_id} ended as {self.status[:80]!r}, and its worker gave no error"
        return JobError(ended, job_id=self.job_id)


class EngineFacts(Tolerant):
    """What an attempt ran on: where two runs of one request part, it says why they could. Each may be missing."""

    device: str | None = None
    """Its name, as NVIDIA H100 80GB HBM3, or a CPU's."""
    dtype: str | None = None
    """Of the weights."""
    path: str | None = None
    """How the model is run: static or dynamic, and compiled or not."""
    torch: str | None = None
    genqueue: str | None = None


class StartedData(Tolerant):
    """A worker took the job."""

    attempt: int
    worker: str
    model: str
    prompt_tokens: int
    resumed_tokens: int = 0
    """Tokens of earlier attempts that this one goes on from."""
    seed: int
    runs_on: EngineFacts | None = None
    """None: of a worker of an earlier version, or in a form that is not known here. Nothing depends on it."""
    markup: Markup | None = None
    """None: all of the text is content, or in a form that is not known here."""

    @field_validator("runs_on", "markup", mode="wrap")
    @classmethod
    def _known_or_none(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(value)
        except ValidationError:
            return None


class TokensData(Tolerant):
    """Tokens, in order.

    The last of a job that is cut short, because it was cancelled or ran out of time, may carry text without ids:
    what had been held back.
    """

    index: int
    """Position in the output of the first id."""
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class Started(Tolerant):
    """Event: a worker took the job."""

    type: Literal["started"] = "started"
    data: StartedData


class Tokens(Tolerant):
    """Event: tokens were generated."""

    type: Literal["tokens"] = "tokens"
    data: TokensData


class Finished(Tolerant):
    """Event: the job ended well."""

    type: Literal["finished"] = "finished"
    data: GenerationResult


class Failed(Tolerant):
    """Event: the job ended in an error."""

    type: Literal["failed"] = "failed"
    data: GenerationResult


class Cancelled(Tolerant):
    """Event: the job was cancelled."""

    type: Literal["cancelled"] = "cancelled"
    data: GenerationResult


TerminalEvent = Finished | Failed | Cancelled
Event = Annotated[Started | Tokens | Finished | Failed | Cancelled, Field(discriminator="type")]

_TERMINAL: dict[str, type[TerminalEvent]] = {
    "finished": Finished,
    "failed": Failed,
    "cancelled": Cancelled,
}
TERMINAL_TYPES = frozenset(_TERMINAL)
"""No later version adds to them: what ends a stream must be known to every reader."""
_TYPES: dict[str, tuple[Any, type[Tolerant]]] = {
    "started": (Started, StartedData),
    "tokens": (Tokens, TokensData),
    **{name: (event, GenerationResult) for name, event in _TERMINAL.items()},
}
KNOWN_TYPES = frozenset(_TYPES)


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


class UnknownEvent(NamedTuple):
    """An event of a type that this version does not know. It has its place in the stream, and is passed over."""

    id: EventId
    type: str
    data: str
    """JSON, as it stands in the stream."""

    @property
    def is_terminal(self) -> bool:
        """Never: the types that end a job are known to every version."""
        return False


class Entry(NamedTuple):
    """An entry of a stream as it stands there, whatever it means."""

    id: EventId
    type: str
    data: str

    @classmethod
    def of(cls, event_id: EventId, event: Started | Tokens | Finished | Failed | Cancelled) -> Self:
        """The entry of an event of ours."""
        return cls(event_id, event.type, data_json(event))

    @classmethod
    def read(cls, entry_id: str | bytes, fields: Mapping[bytes, bytes]) -> Self:
        """From a stream entry as redis-py returns it.  Raises KeyError or ValueError where it holds no event."""
        return cls(EventId.parse(entry_id), fields[b"type"].decode(), fields[b"data"].decode())

    def parse(self) -> StreamedEvent | UnknownEvent:
        """The event in it.  Raises ValidationError where an event of a known type lacks what it must have."""
        if self.type not in KNOWN_TYPES:
            return UnknownEvent(*self)
        event, data = _TYPES[self.type]
        return StreamedEvent(self.id, event(data=data.model_validate_json(self.data)))


def terminal_event(result: GenerationResult) -> TerminalEvent:
    """The event that ends a job with that result."""
    return _TERMINAL[result.status](data=result)


def data_json(event: Started | Tokens | Finished | Failed | Cancelled) -> str:
    """The `data` field of a stream entry: compact JSON."""
    # A tokens event without logprobs leaves the key out: it is the one event that is sent per token.
    unset = {name for name in ("logprobs", "runs_on", "markup") if getattr(event.data, name, 0) is None}
    return event.data.model_dump_json(exclude=unset or None)


_text_json = json.JSONEncoder(ensure_ascii=False).encode


def tokens_json(index: int, ids: Sequence[int], text: str) -> str:
    """The `data` of a tokens event without log-probabilities: what `data_json` makes of it, and sooner, as it is
    made thousands of times a second."""
    return f'{{"index":{index},"ids":[{",".join(map(str, ids))}],"text":{_text_json(text)}}}'


def mirror_json(event_id: str, event_type: str, data: str) -> str:
    """The message on the Pub/Sub channel. `data` is JSON already and is not parsed again."""
    name = f'"{event_type}"' if event_type in KNOWN_TYPES else json.dumps(event_type)
    return f'{{"id":"{event_id}","type":{name},"data":{data}}}'


def parse_entry(entry_id: str | bytes, fields: Mapping[bytes, bytes]) -> StreamedEvent | UnknownEvent:
    """From a stream entry as redis-py returns it.  Raises KeyError or ValueError for one that is no event."""
    return Entry.read(entry_id, fields).parse()


def encode_entry(event: Started | Tokens | Finished | Failed | Cancelled) -> dict[str, Any]:
    """To the fields of a stream entry."""
    return {"type": event.type, "data": data_json(event)}
