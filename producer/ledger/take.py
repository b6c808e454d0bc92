"""A worker takes jobs, shows how far it is, and lets go of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..contract import Keys
from ..contract.keys import MAX_JOB_ID_CHARS, PRIORITIES
from . import rq_names
from .step import Step, nothing

FIELDS = (*rq_names.JOB_FIELDS, *rq_names.OWN_FIELDS)
NoJob = Literal["suspended", "limited"]
"""Why none is taken that is there: RQ has suspended the workers; or as many jobs without a group run as may."""
DUE_AT_ONCE = 50
"""Jobs that one step takes out of their queues: Redis serves nobody else meanwhile."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that is ours now, as it stood in Redis."""

    job_id: str
    raw: Mapping[bytes, bytes]
    """Its fields; empty where its hash has gone, or is larger than allowed."""
    now_ms: int
    """On Redis' clock, when it was taken."""
    size_bytes: int = 0
    has_stream: bool = True
    """Whether something stood in the place of its stream. A job that nobody has run has none."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was pushed into a queue was no job id. Nobody can be waiting for it."""

    size_bytes: int


def take(
    keys: Keys,
    worker: str,
    model: str,
    *,
    known: Collection[str],
    list_ttl_s: int,
    max_bytes: int,
    group_max_running: int | None = None,
) -> Step[Taken | Dropped | NoJob | None]:
    """Take the next job of the highest priority, from the group whose turn it is.

    known: jobs in our list that we know of; another one there was taken, and the answer did not reach us.
    group_max_running: of each group, and of the jobs without one. None: any number.
    """
    taken_parts = keys.taken_parts
    lines = [(rq_names.queue(keys.queue(model, each)), keys.turns(model, each)) for each in PRIORITIES]
    script_keys = [*_own_names(keys, worker, model), keys.bell(model), keys.running(model)]
    args = [worker, list_ttl_s, rq_names.SUSPENDED, rq_names.PREFIX, *taken_parts, max_bytes, MAX_JOB_ID_CHARS]
    args += [keys.prefix, "" if group_max_running is None else group_max_running, len(FIELDS), *FIELDS, *known]
    return Step("take", [*script_keys, *(name for line in lines for name in line)], args, _read_taken)


def take_due(keys: Keys, worker: str, model: str, *, list_ttl_s: int) -> Step[list[bytes]]:
    """Take jobs that have waited for longer than they may, to end them.  Returns their ids."""
    queues = map(rq_names.queue, keys.queues(model))
    args = [worker, list_ttl_s, rq_names.JOB_PREFIX, DUE_AT_ONCE, rq_names.queue("")]
    return Step("take_due", [*_own_names(keys, worker, model), *queues], args, list)


def read_job(job_id: str, *, max_bytes: int) -> Step[tuple[int, Mapping[bytes, bytes]] | None]:
    """A job's fields and their bytes; no fields where they are more than that, None where there is no hash."""
    return Step("read_job", [rq_names.job(job_id)], [max_bytes, *FIELDS], _read_job)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a job, as RQ records it."""

    run_id: str
    fields: Mapping[str, Any]
    job_fields: Mapping[str, Any]
    """What changes in the job's hash."""
    keep_s: int
    over_at: float
    """Unix s: RQ drops the run from the job's own record then."""


def begin(keys: Keys, worker: str, job_id: str, queue: str, run: Run) -> Step[bool]:
    """Show the job as running here. Tells whether it is ours; if not, nothing was written."""
    names = [
        keys.taken(worker),
        rq_names.job(job_id),
        rq_names.run(job_id, run.run_id),
        rq_names.runs(job_id),
        rq_names.registry("wip", queue),
        rq_names.worker_runs(worker),
        rq_names.worker(worker),
    ]
    flat = [part for pair in run.fields.items() for part in pair]
    job_flat = [part for pair in run.job_fields.items() for part in pair]
    args = [job_id, worker, run.run_id, run.keep_s, run.over_at, len(flat), *flat, *job_flat]
    return Step("begin", names, args, bool)


def put_back(keys: Keys, worker: str, job_id: str, queue: str, *, engine_died: bool) -> Step[bool]:
    """Put a job that has not ended at the front of its queue, and count the death of its engine if it has died.

    Tells whether it was ours.
    """
    names = [keys.taken(worker), rq_names.job(job_id), rq_names.queue(queue), rq_names.registry("failed", queue)]
    args = [job_id, "1" if engine_died else "", queue, keys.prefix, keys.queue_prefix, rq_names.PREFIX]
    return Step("put_back", names, args, bool)


def put_down(keys: Keys, worker: str, job_id: str, queue: str = "") -> Step[None]:
    """The job has ended, or is somebody else's.  queue: that it came from, where that is known."""
    args = [job_id, worker, queue, keys.prefix, keys.queue_prefix, rq_names.PREFIX]
    return Step("put_down", [keys.taken(worker), rq_names.job(job_id)], args, nothing)


def come_back(worker: str, job_id: str) -> Step[None]:
    """The worker was taken for dead, and lives: no death is counted."""
    return Step("come_back", [rq_names.job(job_id)], [worker], nothing)


def save_meta(keys: Keys, worker: str, job_id: str, meta: bytes) -> Step[None]:
    """Show the progress of the job that runs here."""
    return Step("save_meta", [keys.taken(worker), rq_names.job(job_id)], [job_id, meta], nothing)


def _own_names(keys: Keys, worker: str, model: str) -> list[str]:
    return [keys.takers, keys.taken(worker), keys.deadlines(model)]


def _read_taken(reply: Any) -> Taken | Dropped | NoJob | None:
    if reply is None:
        return None
    if isinstance(reply, bytes):
        return "suspended" if reply == b"suspended" else "limited"
    if len(reply) == 2:
        return Dropped(reply[1])
    raw_id, now_ms, has_stream, size_bytes, values = reply
    return Taken(raw_id.decode(), _present(values), now_ms, size_bytes, has_stream == 1)


def _read_job(reply: Any) -> tuple[int, Mapping[bytes, bytes]] | None:
    return None if reply is None else (reply[0], _present(reply[1]))


def _present(values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    pairs = zip(FIELDS, values, strict=False)
    return {name.encode(): value for name, value in pairs if value is not None}
