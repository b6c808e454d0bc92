"""A job's stream, from the side of whoever writes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..contract import Entry, EventId, Keys, mirror_json
from . import rq_names
from .step import Step, nothing


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of an append."""

    answer: Literal["ok", "behind", "fenced"]
    last: EventId
    """Of the stream."""
    last_data: str
    """Anybody can add to the stream: what is no text comes with its faults replaced."""
    cancel_requested: bool


class Appender:
    """The appends of one job by one worker.

    as_owner: whether its list of taken jobs and RQ's hash must say that the job is with it. Without, the ids alone
    are the fence.
    """

    def __init__(self, keys: Keys, job_id: str, worker: str, *, as_owner: bool) -> None:
        self._keys = [keys.events(job_id), keys.result(job_id), keys.cancel(job_id), keys.waiters(job_id)]
        self._as_owner = as_owner
        if as_owner:
            self._keys += [keys.taken(worker), rq_names.job(job_id)]
        self._channel = keys.tokens(job_id)
        self._job_id, self._worker = job_id, worker

    def append(
        self,
        previous: EventId,
        entries: Sequence[Entry],
        *,
        ttl_s: int,
        result: str = "",
        looks_for_waiters: bool = True,
    ) -> Step[Appended]:
        """Append the entries after the event `previous`.

        result: what is written beside the terminal event.
        looks_for_waiters: whether to look, too, if anybody waits for a job that ends where nobody does.
        """
        args: list[Any] = [str(previous), ttl_s, self._channel, result, self._job_id, self._worker]
        for entry in entries:
            event_id = str(entry.id)
            args += (event_id, entry.type, entry.data, mirror_json(event_id, entry.type, entry.data))
        keys = self._keys if not (self._as_owner and looks_for_waiters) else [*self._keys, self._keys[-1]]
        return Step("append", keys, args, _read_appended)


def clear(keys: Keys, worker: str, job_id: str) -> Step[bool]:
    """Begin the job's life anew. Tells whether it is the worker's; if not, nothing was changed."""
    names = [keys.taken(worker), keys.events(job_id), keys.result(job_id), keys.cancel(job_id)]
    return Step("clear", names, [job_id], bool)


def last_id(keys: Keys, job_id: str) -> Step[EventId]:
    """Id of the stream's last entry, whose fields may be of any size; 0-0 where there is none."""
    return Step("last_id", [keys.events(job_id)], [], EventId.parse)


def discard_stream(keys: Keys, job_id: str, last_entry: Sequence[bytes]) -> Step[None]:
    """Delete what stands in place of the job's stream.  last_entry: id and fields of the last that was seen."""
    return Step("discard_stream", [keys.events(job_id)], last_entry, nothing)


def discard_result(keys: Keys, job_id: str, raw: bytes, *, max_bytes: int) -> Step[None]:
    """Delete what stands in place of the job's result.  raw: what was read; nothing of what is above max_bytes."""
    return Step("discard_result", [keys.result(job_id)], [raw, max_bytes], nothing)


def _read_appended(reply: Any) -> Appended:
    answer, last_id, last_data, cancel_requested = reply
    last = EventId.parse(last_id)
    return Appended(answer.decode(), last, last_data.decode(errors="replace"), bool(cancel_requested))
