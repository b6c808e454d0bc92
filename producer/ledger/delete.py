"""A job is taken away with all that stands of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..contract import Keys
from . import rq_names
from .step import Step


@dataclass(frozen=True, slots=True)
class Held:
    """A worker has the job: nothing was deleted."""

    worker: str


def delete(keys: Keys, job_id: str, models: Sequence[str], groups: Sequence[str] = ()) -> Step[Held | bool]:
    """Delete all that stands of the job, unless a worker has it.

    models: in whose queues and registries its id may be. Without its hash, nothing else says that.
    groups: queues of groups where it may be, too.
    Returns whether anything was there.
    """
    names = [
        rq_names.job(job_id),
        keys.events(job_id),
        keys.result(job_id),
        keys.cancel(job_id),
        keys.waiters(job_id),
        rq_names.results(job_id),
        *map(keys.deadlines, models),
    ]
    queues = [queue for model in models for queue in keys.queues(model)]
    args = [job_id, keys.takers, *keys.taken_parts, rq_names.PREFIX, keys.prefix, keys.queue_prefix]
    return Step("delete", names, [*args, *queues, *groups], _read)


def _read(reply: Sequence[Any]) -> Held | bool:
    if reply[0] == b"held":
        return Held(reply[1].decode(errors="replace"))
    return bool(reply[0] == b"deleted")
