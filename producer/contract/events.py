"""What a worker says on the way: the event union of a job's stream, which a GenerationResult ends.

A stream entry has two fields, `type` and `data` (compact JSON, UTF-8); its id is `<attempt>-<seq>`.
`seq` starts at 0 and is gapless over the job's whole life; `attempt` grows with every worker that takes the job.

What a worker wrote is read tolerantly: it may be of a later version. Fields that are not known here are passed
over, an event of another type is an UnknownEvent, and a status, reason or code of another value is read as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from .event_id import EventId
from .markup import Markup
from .results import GenerationResult, TokenLogprob
from .tolerant import Tolerant


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
