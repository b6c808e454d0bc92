"""Jobs enter their queue: all of a batch, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..contract import Keys, Priority
from ..contract.groups import encode_group
from . import rq_names
from .step import Step

_QUEUE_KEYS: dict[Priority, int] = {"high": 2, "normal": 3, "low": 4}


@dataclass(frozen=True, slots=True)
class NewJob:
    """One job, ready to be enqueued."""

    job_id: str
    request_digest: str
    """Tells a job that is submitted twice from another one of the same id."""
    hash_ttl_s: int
    fields: Mapping[str, Any]
    """Of RQ's hash."""


@dataclass(frozen=True, slots=True)
class Full:
    """Nothing was enqueued: the queues would hold more than they may."""

    queued: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was enqueued: the id is that of another job."""

    job_id: str


Submitted = Sequence[bool] | Full | Conflict
"""For each job whether it is new, or why none was enqueued."""


def submit(
    keys: Keys,
    model: str,
    priority: Priority,
    jobs: Sequence[NewJob],
    *,
    max_queued: int | None,
    queue_ttl_s: float,
    group: str | None = None,
) -> Step[Submitted]:
    """Enqueue the jobs. A job that exists with the same request is that job.

    max_queued: of the group's jobs for the model, or of those without a group.
    queue_ttl_s: how long each may wait for a worker, on Redis' clock.
    """
    names = keys.queues(model, group)
    target = keys.queue(model, priority, group)
    registries = [rq_names.registry(state, target) for state in ("finished", "failed", "canceled")]
    script_keys = [rq_names.QUEUES, *map(rq_names.queue, names), keys.deadlines(model)]
    args: list[Any] = [-1 if max_queued is None else max_queued, _QUEUE_KEYS[priority], round(queue_ttl_s * 1000)]
    args += ["" if group is None else encode_group(group), keys.turns(model, priority), keys.bell(model)]
    args += [len(registries), *registries]
    for job in jobs:
        script_keys += _keys_of(keys, job.job_id)
        flat = [part for pair in job.fields.items() for part in pair]
        args += [job.job_id, job.request_digest, keys.queue(model), job.hash_ttl_s, len(flat), *flat]
    return Step("submit", script_keys, args, lambda reply: _read(reply, jobs))


def _keys_of(keys: Keys, job_id: str) -> tuple[str, ...]:
    return (
        rq_names.job(job_id),
        keys.events(job_id),
        keys.result(job_id),
        keys.cancel(job_id),
        rq_names.results(job_id),
        keys.waiters(job_id),
    )


def _read(reply: list[int], jobs: Sequence[NewJob]) -> Submitted:
    match reply:
        case [-1, queued]:
            return Full(queued)
        case [-2, place]:
            return Conflict(jobs[place - 1].job_id)
        case _:
            return [created == 1 for created in reply]
