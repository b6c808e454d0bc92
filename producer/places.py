"""How a job stands and where its id is, as one look at Redis tells: what is asked, and what the reply means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .contract import StreamedEvent, UnknownEvent
from .following import event_in
from .job_status import JobState, job_fields

HOLDERS = ("taken_by", "worker_name")
"""Of a job's hash, those in whose list it may be."""
STANDING_FIELDS = (*HOLDERS, "origin", "status", "timeout", "queued_at_ms", "expires_at_ms")
"""Of a job's hash, what a wait has to know."""
HELD_BY_RQ = frozenset({"created", "ready", "deferred", "scheduled"})
"""States of RQ's in which a job stands in one of its registries, and goes on from there."""


@dataclass(frozen=True)
class Standing:
    """How a job stood at one moment."""

    newest: StreamedEvent | UnknownEvent | None
    """Its last event so far."""
    has_result: bool
    """Whether its terminal event or its result is there. A result beside a stream that goes on is none."""
    fields: Mapping[str, str]
    """The STANDING_FIELDS that its RQ hash has; empty where that is gone."""


@dataclass(frozen=True)
class Place:
    """Where a job's id is: in a queue, in a worker's list, or in neither."""

    position: int | None
    """Jobs of its group, or of those without one, that are served before it; None when it is in no queue."""
    is_taken: bool
    """It is in the list of the worker that took it."""
    may_be_ahead: bool = False
    """It was not found, and a queue is longer than what was searched of it."""
    line: int = 0
    """Which of the queues it is in."""
    place: int = 0
    """Jobs before it there."""

    @property
    def is_held(self) -> bool:
        """Whether somebody has it, or will."""
        return self.position is not None or self.is_taken

    def believed(self, state: JobState, standing: Standing) -> JobState:
        """RQ's word for its state, where the place does not say better: only an event of ours ends a job."""
        if standing.has_result or state in {"queued", "deferred", "scheduled", "running"} or not self.is_held:
            return state
        return "running" if self.is_taken else "queued"


def read_place(reply: Sequence[int | None], queues: int, line_end: int | None = None) -> Place:
    """What `ask_places` was answered behind how the job stands: place in each queue and its length, then lists."""
    lines, taken = reply[: 2 * queues], reply[2 * queues :]
    before = 0
    for line, (place, length) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        if place is not None:
            return Place(before + int(place), is_taken=False, line=line, place=int(place))
        before += int(length or 0)
    may_be_ahead = line_end is not None and any(int(length or 0) > line_end for length in lines[1::2])
    return Place(None, is_taken=any(place is not None for place in taken), may_be_ahead=may_be_ahead)


def read_standing(job_id: str, reply: Sequence[Any]) -> Standing:
    """What `ask_standing` was answered."""
    entries, has_result, values = reply
    newest = next((event_in(entry_id, fields, job_id) for entry_id, fields in entries), None)
    has_ended = bool(newest and newest.is_terminal)
    return Standing(newest, bool(has_result) or has_ended, job_fields(values, STANDING_FIELDS))


def ask_standing(pipeline: Any, names: tuple[str, str, str]) -> Any:
    """names: of the job's hash, events and result."""
    hash_key, events, result = names
    return pipeline.xrevrange(events, count=1).exists(result).hmget(hash_key, STANDING_FIELDS)


def ask_places(
    names: tuple[str, str, str],
    queues: Sequence[str],
    lists: Sequence[str],
    job_id: str,
    client: Any,
    *,
    line_end: int | None,
) -> Any:
    """How the job stands, and where it is among those queues and lists of taken jobs, all at one moment.

    line_end: so many places at the end of each queue are searched; None: all.
    """
    pipeline = ask_standing(client.pipeline(transaction=True), names)
    for name in queues:
        in_part = {} if line_end is None else {"rank": -1, "maxlen": line_end}
        pipeline.lpos(name, job_id, **in_part).llen(name)
    for name in lists:
        pipeline.lpos(name, job_id)
    return pipeline.execute()
