"""What goes on in all queues of a prefix: workers, jobs that wait, run and have ended. Without any I/O.

Operations, as those of `operations`. Three round trips, however many jobs there are: of each queue its length, its
first job and the newest ends are asked for, and never the queue itself.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

import redis

from .contract import BrokerUnavailable, Keys, Priority
from .contract.keys import check_model_name
from .eta import empty_in_s
from .job_status import (
    WorkerInfo,
    job_fields,
    paces_of,
    progress_of,
    state_of,
    times_of,
    worker_info,
)
from .ledger import rq_names
from .ledger.roster import FIELDS, WorkerRecord, live_workers
from .operations import Operation
from .overview_values import EndedJob, ModelOverview, Overview, RunningJob, WaitingJobs
from .replies import positive_or_none

RUNNING_AT_MOST = 200
"""Of one queue. As many as it has workers run, and what dead ones have left."""
ENDED_SHOWN = 5
_PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
_ENDS = ("finished", "failed", "canceled")
_JOB_FIELDS = ("status", "worker_name", "meta", "queued_at_ms", "enqueued_at", "started_at", "ended_at")


def overview(keys: Keys, model: str | None = None) -> Operation[Overview]:
    """Of all models of the prefix, or of that one.

    Raises BrokerUnavailable for a user of Redis that may not look at all of them, as a producer's may not.
    """
    try:
        return (yield from _overview(keys, model if model is None else check_model_name(model)))
    except redis.exceptions.NoPermissionError as error:
        raise _not_allowed() from error


def queues_of(keys: Keys, model: str | None) -> Operation[list[str]]:
    """Names of all queues of the prefix, or of those of one model.  Raises as `overview`."""
    if model is not None:
        return list(keys.queues(model))
    try:
        return _ours(keys, (yield lambda r: r.smembers(rq_names.QUEUES)), None)
    except redis.exceptions.NoPermissionError as error:
        raise _not_allowed() from error


def _not_allowed() -> BrokerUnavailable:
    return BrokerUnavailable(
        "this user of Redis may not list queues and workers: use an operator's, or to look alone the dashboard's "
        "of configs/redis.acl"
    )


def _overview(keys: Keys, model: str | None) -> Operation[Overview]:
    worker_keys, queue_keys, suspended, now_s = yield _ask_names
    queues = _ours(keys, queue_keys, model)
    worker_keys = sorted(worker_keys)
    replies = yield _pipelined(lambda pipeline: _ask_queues(pipeline, worker_keys, queues))
    records = live_workers(worker_keys, replies[: len(worker_keys)])
    per_queue = len(_QueueReply._fields)
    rest = replies[len(worker_keys) :]
    lines = {name: _QueueReply(*rest[at * per_queue :][:per_queue]) for at, name in enumerate(queues)}
    job_ids = sorted({job_id for line in lines.values() for job_id in line.job_ids})
    values = yield _pipelined(
        lambda pipeline: [pipeline.hmget(rq_names.job(each), _JOB_FIELDS) for each in job_ids]
    )
    jobs = dict(zip(job_ids, (job_fields(each, _JOB_FIELDS) for each in values), strict=True))
    looked = _Looked(lines, jobs, now_s)
    served = {name: list(group) for name, group in _by_model(keys, records) if model in (None, name)}
    known = {keys.model_of_queue(name) or "" for name in queues}
    models = [] if model is None else [model]
    shown = sorted({*known, *served, *models})
    return Overview(
        suspended=bool(suspended),
        models=tuple(looked.model(keys, name, tuple(map(worker_info, served.get(name, ())))) for name in shown),
    )


class _QueueReply(NamedTuple):
    """What was answered of one queue."""

    length: int
    first: bytes | None
    runs: Sequence[bytes]
    finished: int
    failed: int
    canceled: int
    newest_finished: Sequence[bytes]
    newest_failed: Sequence[bytes]
    newest_canceled: Sequence[bytes]

    @property
    def running(self) -> list[str]:
        """Ids. An entry of the registry is `JOB:RUN`."""
        return [_text(run).partition(":")[0] for run in self.runs]

    @property
    def ended(self) -> list[str]:
        """Ids of the newest ends."""
        return [_text(each) for each in (*self.newest_finished, *self.newest_failed, *self.newest_canceled)]

    @property
    def job_ids(self) -> list[str]:
        """All whose records are to be read."""
        return [*([_text(self.first)] if self.first is not None else []), *self.running, *self.ended]


class _Looked:
    """What was answered of all queues, and of the jobs that they name."""

    def __init__(self, lines: dict[str, _QueueReply], jobs: dict[str, dict[str, str]], now_s: float) -> None:
        self._lines, self._jobs, self._now_s = lines, jobs, now_s

    def model(self, keys: Keys, model: str, workers: tuple[WorkerInfo, ...]) -> ModelOverview:
        """One model's part."""
        own = {
            priority: self._lines[name]
            for priority in _PRIORITIES
            if (name := keys.queue(model, priority)) in self._lines
        }
        lines = list(own.values())
        waiting = tuple(self._waiting(priority, line) for priority, line in own.items() if line.length)
        running = tuple(self._running(dict.fromkeys(each for line in lines for each in line.running)))
        queued = sum(each.count for each in waiting)
        return ModelOverview(
            model=model,
            workers=workers,
            waiting=waiting,
            running=running,
            finished=sum(line.finished for line in lines),
            failed=sum(line.failed for line in lines),
            cancelled=sum(line.canceled for line in lines),
            ended=self._ended(dict.fromkeys(each for line in lines for each in line.ended)),
            empty_in_s=empty_in_s(queued, paces_of(workers)) if queued or running else None,
        )

    def _waiting(self, priority: Priority, line: _QueueReply) -> WaitingJobs:
        fields = self._jobs.get(_text(line.first), {}) if line.first is not None else {}
        queued_at_ms = positive_or_none(fields.get("queued_at_ms"))
        since_s = self._since_s(times_of(fields).get("enqueued_at"))
        if queued_at_ms is not None:
            since_s = max(0.0, self._now_s - queued_at_ms / 1000)
        return WaitingJobs(priority=priority, count=line.length, oldest_s=since_s)

    def _running(self, job_ids: Iterable[str]) -> Iterable[RunningJob]:
        for job_id in job_ids:
            fields = self._jobs[job_id]
            if state_of(fields) == "running":  # else RQ has an entry of a run that is over
                yield RunningJob(
                    job_id=job_id,
                    worker=fields.get("worker_name") or None,
                    running_s=self._since_s(times_of(fields).get("started_at")),
                    progress=progress_of(fields),
                )

    def _ended(self, job_ids: Iterable[str]) -> tuple[EndedJob, ...]:
        ended = [
            EndedJob(
                job_id=job_id,
                state=state_of(fields),
                ended_s=self._since_s(times_of(fields)["ended_at"]),
                progress=progress_of(fields),
            )
            for job_id in job_ids
            if "ended_at" in times_of(fields := self._jobs[job_id])
        ]
        return tuple(sorted(ended, key=lambda each: each.ended_s or 0.0)[:ENDED_SHOWN])

    def _since_s(self, moment: datetime | None) -> float | None:
        return None if moment is None else max(0.0, self._now_s - moment.astimezone(UTC).timestamp())


def _ask_names(client: Any) -> Any:
    """Of workers and queues; whether they are suspended; Redis' clock, s."""
    pipeline = client.pipeline(transaction=False)
    pipeline.smembers(rq_names.WORKERS).smembers(rq_names.QUEUES).exists(rq_names.SUSPENDED).time()
    return _then(pipeline.execute(raise_on_error=False), _with_clock)


def _with_clock(replies: Sequence[Any]) -> Sequence[Any]:
    *names, now = replies
    for reply in names:
        if isinstance(reply, redis.RedisError):
            raise reply
    # The dashboard's user may not ask for it: then it is this host's.
    return [*names, time.time() if isinstance(now, redis.RedisError) else now[0] + now[1] / 1e6]


def _ask_queues(pipeline: Any, worker_keys: Sequence[bytes], queues: Sequence[str]) -> None:
    """As _QueueReply has it."""
    for key in worker_keys:
        pipeline.hmget(key, FIELDS)
    for name in queues:
        line = rq_names.queue(name)
        pipeline.llen(line).lindex(line, 0)
        pipeline.zrange(rq_names.registry("wip", name), 0, RUNNING_AT_MOST - 1)
        for state in _ENDS:
            pipeline.zcard(rq_names.registry(state, name))
        for state in _ENDS:
            pipeline.zrevrange(rq_names.registry(state, name), 0, ENDED_SHOWN - 1)


def _pipelined(ask: Callable[[Any], object]) -> Callable[[Any], Any]:
    def command(client: Any) -> Any:
        """One round trip."""
        pipeline = client.pipeline(transaction=False)
        ask(pipeline)
        return pipeline.execute()

    return command


def _then(reply: Any, read: Callable[[Any], Any]) -> Any:
    """What is read of a reply, or of one that is to be awaited."""
    if not hasattr(reply, "__await__"):
        return read(reply)

    async def awaited() -> Any:
        return read(await reply)

    return awaited()


def _by_model(keys: Keys, records: Iterable[WorkerRecord]) -> Iterable[tuple[str, Iterable[WorkerRecord]]]:
    def model_of(record: WorkerRecord) -> str:
        models = filter(None, map(keys.model_of_queue, record.queues))
        return next(models, "")

    ours = sorted((record for record in records if model_of(record)), key=lambda each: (model_of(each), each.name))
    return groupby(ours, key=model_of)


def _ours(keys: Keys, queue_keys: Iterable[bytes], model: str | None) -> list[str]:
    names = (_text(key).removeprefix(rq_names.queue("")) for key in queue_keys)
    known = ((name, keys.model_of_queue(name)) for name in names)
    return sorted(name for name, of in known if of is not None and model in (None, of))


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
