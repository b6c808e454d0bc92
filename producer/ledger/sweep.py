"""Who is alive, what the dead have left, and what waits too long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..contract import Keys
from . import rq_names
from .step import Step, nothing

JOBS_AT_ONCE = 50
"""Jobs that one step moves: Redis serves nobody else meanwhile."""
SCHEDULED_AT_ONCE = 100

Sign = Literal["exited", "overdue", "gone", "expired"]
"""How a worker is known to be dead: by its process, its beat, its connection, or its record (one of an earlier
version)."""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker of a model, as it beats."""

    worker: str
    model: str

    def __str__(self) -> str:
        return f"{self.worker} {self.model}"

    @classmethod
    def parse(cls, raw: bytes) -> "Member":
        """From the form on Redis."""
        worker, _, model = raw.decode(errors="replace").rpartition(" ")
        return cls(worker, model)


@dataclass(frozen=True, slots=True)
class RingEntry:
    """A worker and the connection that stands for it."""

    worker: str
    run_id: str = "-"
    """Of the server that the client id belongs to; `-` where no connection stands for the worker."""
    client_id: int = 0

    def __str__(self) -> str:
        return f"{self.worker} {self.run_id} {self.client_id}"

    @classmethod
    def parse(cls, raw: bytes) -> "RingEntry":
        """From the form in the ring."""
        worker, run_id, client_id = ["", "-", *raw.decode(errors="replace").rsplit(" ", 2)][-3:]
        return cls(worker, run_id, int(client_id) if client_id.isdigit() else 0)


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker sees when it says that it is alive."""

    now_ms: int
    is_first: bool
    """Of the ring: this one does for all what need not be done by each."""
    members: int
    """Of the ring."""
    after: tuple[RingEntry, ...]
    """The workers that this one watches."""
    hear: tuple[bool, ...]
    """Which of them hear RQ's commands; empty where Redis did not say."""
    overdue: tuple[Member, ...]
    """Workers whose last beat is too long ago."""
    has_late: bool
    """Jobs have waited for longer than they may."""
    has_scheduled: bool
    is_forgotten: bool = False
    """Redis did not know the worker before this beat, or no more: the record lacks what did not come with it."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a dead worker had left."""

    back: tuple[str, ...]
    """Jobs that are back in their queues."""
    ended: tuple[bytes, ...]
    """Jobs that have ended, and that are still in the dead worker's list: RQ is to be told."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What has become of scheduled jobs whose time had come."""

    due: int
    """Jobs that are scheduled no more."""
    limited: int
    """Those of them that RQ has yet to let through a rate limit."""


def beat(
    keys: Keys,
    model: str,
    entry: RingEntry,
    record: Mapping[str, Any],
    *,
    ttl_s: float,
    keep_s: int,
) -> Step[Beat]:
    """Say that the worker is alive.  record: RQ's, of the worker; at least one field, those that have changed."""
    queues = keys.queues(model)
    names = [
        keys.beats,
        keys.ring(model),
        rq_names.worker(entry.worker),
        keys.deadlines(model),
        rq_names.WORKERS,
        *map(rq_names.workers, queues),
        *(rq_names.registry("scheduled", queue) for queue in queues),
    ]
    flat = [part for pair in record.items() for part in pair]
    member = Member(entry.worker, model)
    args = [
        str(member),
        round(ttl_s * 1000),
        str(entry),
        entry.worker,
        len(queues),
        keep_s,
        rq_names.commands(""),
        keys.later(model),
        *flat,
    ]
    return Step("beat", names, args, _read_beat)


def leave(keys: Keys, member: Member) -> Step[None]:
    """The worker goes in good order: what it still holds is free for others at once."""
    held = [keys.taken(member.worker), keys.settling(member.worker)]
    names = [keys.beats, keys.ring(member.model), keys.takers, *held]
    return Step("leave", names, [member.worker, str(member)], nothing)


def sweep(
    keys: Keys, taker: str, member: Member, sign: Sign, *, entry: RingEntry | None = None, now: str
) -> Step[Swept | None]:
    """Put back what a dead worker has left.  None where it is not dead by now.

    taker: its name among the takers, which is another for the list of ends that it was telling RQ of.
    entry: for `gone`, its place in the ring.  now: in RQ's form.
    """
    worker, model = member.worker, member.model
    names = [keys.beats, keys.ring(model), keys.takers, keys.taken(taker), rq_names.worker(worker)]
    args = [taker, worker, sign, str(entry or ""), now, keys.prefix, rq_names.PREFIX, keys.queue_prefix]
    return Step("sweep", names, [*args, keys.queue(model), JOBS_AT_ONCE, str(member)], _read_swept)


def claim(keys: Keys, taker: str, worker: str, job_id: bytes, *, ttl_s: int) -> Step[bool]:
    """Take it on to tell RQ of the end of a job in a dead worker's list. Tells whether nobody else has."""
    names = [keys.taken(taker), keys.settling(worker), keys.takers]
    return Step("claim", names, [job_id, keys.settler(worker), ttl_s], bool)


def settled(keys: Keys, worker: str, job_id: bytes) -> Step[None]:
    """RQ has been told."""
    names = [keys.settling(worker), keys.takers, rq_names.job(job_id.decode(errors="replace"))]
    args = [job_id, keys.settler(worker), keys.prefix, keys.queue_prefix, rq_names.PREFIX]
    return Step("settled", names, args, nothing)


def schedule(keys: Keys, model: str, *, now: str) -> Step[Scheduled]:
    """Put scheduled jobs whose time has come into their queues.

    SCHEDULED_AT_ONCE of each priority at most, and of those of all groups together.
    """
    queues = keys.queues(model)
    pairs = [(rq_names.registry("scheduled", queue), rq_names.queue(queue)) for queue in queues]
    names = [rq_names.QUEUES, *(name for pair in pairs for name in pair)]
    args = [rq_names.JOB_PREFIX, now, SCHEDULED_AT_ONCE, rq_names.RATE_LIMITS, rq_names.RATE_LIMIT_PREFIX]
    args += [keys.later(model), keys.prefix, keys.queue_prefix, rq_names.PREFIX]
    return Step("schedule", names, args, lambda reply: Scheduled(*reply))


def _read_beat(reply: Any) -> Beat:
    now_ms, is_first, members, after, hear, overdue, has_late, has_scheduled, is_forgotten = reply
    return Beat(
        now_ms,
        bool(is_first),
        members,
        tuple(map(RingEntry.parse, after)),
        tuple(map(bool, hear)),
        tuple(map(Member.parse, overdue)),
        bool(has_late),
        bool(has_scheduled),
        bool(is_forgotten),
    )


def _read_swept(reply: Sequence[Sequence[bytes]] | None) -> Swept | None:
    if reply is None:
        return None
    back, ended = reply
    return Swept(tuple(job_id.decode(errors="replace") for job_id in back), tuple(ended))
