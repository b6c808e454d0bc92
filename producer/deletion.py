"""How a job is deleted, step by step, without doing any I/O: an operation, as those of `operations`.

A job that has not ended is cancelled first, so that whoever follows it hears of an end, and nothing is deleted
while a worker has it: what the worker wrote afterwards would bring a part of the job back.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio

from .broker.meaning import is_wrong_type
from .contract import GenerationResult, GenqueueError, InvalidRequest, NoSuchJob, StreamedEvent, WaitTimeout
from .contract.keys import check_job_id, check_model_name, worker_of_taker
from .following import event_in
from .ledger import rq_names
from .ledger.delete import Held, delete
from .operations import CancelOutcome, Operation, Operations
from .replies import UNKNOWN_MODEL, model_of, stored_result

DELETE_WAIT_S = 30.0
"""For a worker to end a job and to let go of it."""
_LOOK_EVERY_S = 0.1
_QUEUES_AT_ONCE = 100
_HEARD_S = 0.1
"""For whoever follows the job to read its end, before that is deleted."""


@dataclass(frozen=True)
class Pause:
    """A command that sends nothing, and takes its time."""

    seconds: float

    def __call__(self, client: Any) -> Any:
        """Sleep, or return what is to be awaited."""
        return (asyncio.sleep if isinstance(client, redis.asyncio.Redis) else time.sleep)(self.seconds)


def deletion(operations: Operations, job_id: str, wait_s: float = DELETE_WAIT_S) -> Operation[None]:
    """Delete all that stands of a job.

    wait_s: how long a worker that has it may take to let go of it.
    Raises NoSuchJob where nothing of it is there, or where it is no job of this prefix; WaitTimeout.
    """
    keys = operations.keys
    origin = yield from _origin(operations, check_job_id(job_id))
    outcome = yield from _end(operations, job_id)
    if outcome == "cancelled":
        yield Pause(_HEARD_S)
    models = yield from _models(operations, job_id, origin)
    deadline = time.monotonic() + wait_s
    deleted: Held | bool = False
    for groups in _chunks((yield from _groups(operations, models, origin))):
        step = delete(keys, job_id, models, groups)
        while isinstance(found := step.read((yield step.send)), Held):
            if time.monotonic() >= deadline:
                raise _still_held(job_id, found.worker, wait_s)
            yield Pause(_LOOK_EVERY_S)
        deleted = deleted or found
    # A command is sent again when its reply got lost, and then finds nothing any more.
    if not deleted and origin is None and outcome is None:
        raise NoSuchJob(
            f"job {job_id} is not known: nothing of it is there, or all of it was deleted before", job_id=job_id
        )


def _origin(operations: Operations, job_id: str) -> Operation[str | None]:
    """The queue that its hash names.  Raises NoSuchJob for a job of somebody else's queue."""
    try:
        [raw] = yield lambda r: r.hmget(rq_names.job(job_id), ["origin"])
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        return None
    if raw is None:
        return None
    origin = str(raw.decode(errors="replace"))
    operations.check_ours(job_id, origin)
    return origin


def _end(operations: Operations, job_id: str) -> Operation[CancelOutcome | None]:
    """Cancel it. None where it is not known any more, or where something else stands in its place."""
    try:
        return (yield from operations.cancel(job_id))
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
    except GenqueueError:
        pass
    return None


def _models(operations: Operations, job_id: str, origin: str | None) -> Operation[Sequence[str]]:
    """Models in whose queues its id may be: its own, or where nothing says which that is, all."""
    keys = operations.keys
    model = keys.model_of_queue(origin or "") or (yield from _model_of_end(operations, job_id))
    try:
        return [check_model_name(model)] if model != UNKNOWN_MODEL else (yield from _all_models(operations))
    except InvalidRequest:
        return (yield from _all_models(operations))


def _model_of_end(operations: Operations, job_id: str) -> Operation[str]:
    keys = operations.keys
    try:
        entries = yield lambda r: r.xrevrange(keys.events(job_id), count=1)
        events = [event_in(entry_id, fields) for entry_id, fields in entries]
        if isinstance(newest := next(iter(events), None), StreamedEvent):
            if isinstance(newest.event.data, GenerationResult):
                return newest.event.data.model
            first = yield lambda r: r.xrange(keys.events(job_id), count=1)
            return model_of([event_in(entry_id, fields) for entry_id, fields in first])
        raw = yield lambda r: r.get(keys.result(job_id))
        return stored_result(job_id, raw).model if raw is not None else UNKNOWN_MODEL
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
    except GenqueueError:
        pass
    return UNKNOWN_MODEL


def _all_models(operations: Operations) -> Operation[Sequence[str]]:
    names = yield from _all_queues()
    return sorted({model for name in names if (model := operations.keys.model_of_queue(name))})


def _groups(operations: Operations, models: Sequence[str], origin: str | None) -> Operation[Sequence[str]]:
    """Queues of groups in which its id may be: those of its own, or where nothing says which that is, all."""
    keys = operations.keys
    if origin is not None:
        group = keys.group_of_queue(origin)
        return [] if group is None else [name for model in models for name in keys.queues(model, group)]
    names = yield from _all_queues()
    return sorted(each for each in names if keys.group_of_queue(each) and keys.model_of_queue(each) in models)


def _all_queues() -> Operation[Iterable[str]]:
    try:
        queues = yield lambda r: r.smembers(rq_names.QUEUES)
    except redis.exceptions.NoPermissionError:
        return ()  # a producer's user may not list them; no job of theirs is without a word of its model
    return [queue.decode(errors="replace").removeprefix(rq_names.queue("")) for queue in queues]


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    """One at least: Redis serves nobody else while it looks through so many queues."""
    return [names[at : at + _QUEUES_AT_ONCE] for at in range(0, max(1, len(names)), _QUEUES_AT_ONCE)]


def _still_held(job_id: str, worker: str, wait_s: float) -> WaitTimeout:
    hint = "delete it again in a while. Where that worker is dead, a live one of its model puts the job back first"
    return WaitTimeout(
        f"job {job_id} is with {worker_of_taker(worker)}, which was asked to end it and has not let go of it "
        f"for {wait_s:g} s; nothing was deleted: {hint}",
        job_id=job_id,
        hint=hint,
    )
