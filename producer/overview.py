"""What goes on in all queues of a prefix: workers, jobs that wait, run and have ended. Without any I/O.

Operations, as those of `operations`. Three round trips, however many jobs there are: of each queue its length, its
first job and the newest ends are asked for, and never the queue itself. Of many groups' queues it is a few more.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any

import redis

from .broker.meaning import is_wrong_type
from .contract import BrokerUnavailable, Keys
from .contract.keys import check_model_name
from .eta import empty_in_s
from .job_status import (
    ENDS,
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
from .overview_lines import ENDED_SHOWN, Line, QueueReply, ask_queue, lines_of, queue_reply, text
from .overview_values import (
    EndedJob,
    ModelOverview,
    Overview,
    RunningJob,
    WaitingGroup,
    WaitingJob,
    WaitingJobs,
)
from .replies import positive_or_none

GROUPS_SHOWN = 10
QUEUES_AT_ONCE = 500
"""Of one round trip: Redis serves others in between."""
HEADS_IN_ALL = 2000
"""Of all queues together, where jobs that wait are shown. Each queue has one at least."""
_NO_RECORD = (None,) * len(FIELDS)
_JOB_FIELDS = ("status", "origin", "worker_name", "meta", "queued_at_ms", "enqueued_at", "started_at", "ended_at")
_NO_JOB = (None,) * len(_JOB_FIELDS)


def overview(keys: Keys, model: str | None = None, *, waiting_shown: int = 0) -> Operation[Overview]:
    """Of all models of the prefix, or of that one.

    waiting_shown: jobs of each model that are listed, of those that wait; the others are only counted.
    Raises BrokerUnavailable for a user of Redis that may not look at all of them, as a producer's may not.
    """
    try:
        return (yield from _overview(keys, model if model is None else check_model_name(model), waiting_shown))
    except redis.exceptions.NoPermissionError as error:
        raise _not_allowed() from error


def queues_of(keys: Keys, model: str | None) -> Operation[list[str]]:
    """Names of all queues of the prefix, or of those of one model.  Raises as `overview`."""
    try:
        known = _ours(keys, (yield lambda r: r.smembers(rq_names.QUEUES)), model)
        return known if model is None else list(dict.fromkeys((*keys.queues(model), *known)))
    except redis.exceptions.NoPermissionError as error:
        raise _not_allowed() from error


def _not_allowed() -> BrokerUnavailable:
    return BrokerUnavailable(
        "this user of Redis may not list queues and workers: use an operator's, or to look alone the dashboard's "
        "of configs/redis.acl"
    )


def _overview(keys: Keys, model: str | None, waiting_shown: int) -> Operation[Overview]:
    worker_keys, queue_keys, suspended, now_s = yield _ask_names
    queues = _ours(keys, queue_keys, model)
    worker_keys = sorted(worker_keys)
    heads = max(1, min(waiting_shown, HEADS_IN_ALL // max(1, len(queues))))
    records, answered = yield from _read_queues(worker_keys, queues, heads)
    lines = lines_of(keys, answered, waiting_shown)
    job_ids = sorted(
        {
            *(job_id for each in lines.values() for line in each for job_id in line.job_ids),
            *(job_id for record in records for job_id in record.ended_jobs),
        }
    )
    values = yield _pipelined(
        lambda pipeline: [pipeline.hmget(rq_names.job(each), _JOB_FIELDS) for each in job_ids]
    )
    jobs = dict(zip(job_ids, (job_fields(each or _NO_JOB, _JOB_FIELDS) for each in values), strict=True))
    looked = _Looked(keys, lines, _groups_of(keys, answered), jobs, now_s)
    served = {name: list(group) for name, group in _by_model(keys, records) if model in (None, name)}
    models = [] if model is None else [model]
    shown = sorted({*lines, *served, *models})
    return Overview(
        suspended=bool(suspended),
        models=tuple(looked.model(name, served.get(name, ())) for name in shown),
    )


class _Looked:
    """What was answered of all queues, and of the jobs that they name."""

    def __init__(
        self,
        keys: Keys,
        lines: dict[str, list[Line]],
        groups: dict[str, Counter[str]],
        jobs: dict[str, dict[str, str]],
        now_s: float,
    ) -> None:
        self._keys = keys
        self._lines, self._groups, self._jobs, self._now_s = lines, groups, jobs, now_s

    def model(self, model: str, records: Sequence[WorkerRecord]) -> ModelOverview:
        """One model's part."""
        workers = tuple(map(worker_info, records))
        lines, groups = self._lines.get(model, []), self._groups.get(model, Counter())
        waiting = tuple(self._waiting(line) for line in lines if line.length)
        running = tuple(self._running(dict.fromkeys(each for line in lines for each in line.running)))
        queued = sum(each.count for each in waiting)
        return ModelOverview(
            model=model,
            workers=workers,
            waiting=waiting,
            groups=tuple(
                WaitingGroup(group=name, count=count) for name, count in groups.most_common(GROUPS_SHOWN)
            ),
            groups_waiting=len(groups),
            waiting_jobs=tuple(self._waiting_jobs(lines)),
            running=running,
            finished=sum(line.finished for line in lines),
            failed=sum(line.failed for line in lines),
            cancelled=sum(line.canceled for line in lines),
            ended=self._ended(dict.fromkeys(_ended_of(lines, records))),
            empty_in_s=empty_in_s(queued, paces_of(workers)) if queued or running else None,
        )

    def _waiting(self, line: Line) -> WaitingJobs:
        ages = (self._waited_s(self._jobs.get(job_id, {})) for job_id in line.heads)
        oldest_s = max((age for age in ages if age is not None), default=None)
        return WaitingJobs(priority=line.priority, count=line.length, oldest_s=oldest_s)

    def _waiting_jobs(self, lines: Iterable[Line]) -> Iterable[WaitingJob]:
        for line in lines:
            for job_id in line.waiting:
                fields = self._jobs[job_id]
                waited_s = self._waited_s(fields)
                yield WaitingJob(
                    job_id=job_id, priority=line.priority, group=self._group(fields), waited_s=waited_s
                )

    def _group(self, fields: Mapping[str, str]) -> str | None:
        return self._keys.group_of_queue(fields.get("origin", ""))

    def _waited_s(self, fields: Mapping[str, str]) -> float | None:
        queued_at_ms = positive_or_none(fields.get("queued_at_ms"))
        if queued_at_ms is None:
            return self._since_s(times_of(fields).get("enqueued_at"))
        return max(0.0, self._now_s - queued_at_ms / 1000)

    def _running(self, job_ids: Iterable[str]) -> Iterable[RunningJob]:
        for job_id in job_ids:
            fields = self._jobs[job_id]
            if state_of(fields) == "running":  # else RQ has an entry of a run that is over
                yield RunningJob(
                    job_id=job_id,
                    worker=fields.get("worker_name") or None,
                    running_s=self._since_s(times_of(fields).get("started_at")),
                    progress=progress_of(fields),
                    priority=self._keys.priority_of_queue(fields.get("origin", "")),
                    group=self._group(fields),
                )

    def _ended(self, job_ids: Iterable[str]) -> tuple[EndedJob, ...]:
        """The newest. Some of them may run again, or wait, by RQ's `Retry` or a person's requeue."""
        ended = [
            EndedJob(
                job_id=job_id,
                state=state_of(fields),
                ended_s=self._since_s(times_of(fields)["ended_at"]),
                progress=progress_of(fields),
                group=self._group(fields),
            )
            for job_id in job_ids
            if "ended_at" in times_of(fields := self._jobs[job_id]) and state_of(fields) in ENDS
        ]
        return tuple(sorted(ended, key=lambda each: each.ended_s or 0.0)[:ENDED_SHOWN])

    def _since_s(self, moment: datetime | None) -> float | None:
        return None if moment is None else max(0.0, self._now_s - moment.astimezone(UTC).timestamp())


def _ended_of(lines: Iterable[Line], records: Iterable[WorkerRecord]) -> Iterable[str]:
    """Ids of jobs among which are the newest ends.

    RQ's registries name first what is kept longest, be it a day old: workers tell of what has ended since.
    """
    yield from (job_id for line in lines for job_id in line.ended)
    yield from (job_id for record in records for job_id in record.ended_jobs)


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


def _read_queues(
    worker_keys: Sequence[bytes], queues: Sequence[str], heads: int
) -> Operation[tuple[tuple[WorkerRecord, ...], dict[str, QueueReply]]]:
    def ask(pipeline: Any, workers: Sequence[bytes], names: Sequence[str]) -> None:
        for key in workers:
            pipeline.hmget(key, FIELDS)
        for name in names:
            ask_queue(pipeline, name, heads)

    answered: dict[str, QueueReply] = {}
    records: Sequence[Any] = ()
    for at in range(0, max(1, len(queues)), QUEUES_AT_ONCE):
        names, workers = queues[at : at + QUEUES_AT_ONCE], () if at else worker_keys
        replies = yield _pipelined(partial(ask, workers=workers, names=names))
        if not at:
            records, replies = [each or _NO_RECORD for each in replies[: len(workers)]], replies[len(workers) :]
        each = len(QueueReply._fields)
        answered |= {name: queue_reply(replies[place * each :][:each]) for place, name in enumerate(names)}
    return live_workers(worker_keys, records), answered


def _groups_of(keys: Keys, answered: Mapping[str, QueueReply]) -> dict[str, Counter[str]]:
    """How many jobs of each group wait, by model."""
    groups: dict[str, Counter[str]] = {}
    for name, reply in answered.items():
        model, group = keys.model_of_queue(name), keys.group_of_queue(name)
        if model is not None and group is not None and reply.length:
            groups.setdefault(model, Counter())[group] += reply.length
    return groups


def _pipelined(ask: Callable[[Any], object]) -> Callable[[Any], Any]:
    def command(client: Any) -> Any:
        """One round trip. None for what another kind of key stands in place of: the rest is shown all the same."""
        pipeline = client.pipeline(transaction=False)
        ask(pipeline)
        return _then(pipeline.execute(raise_on_error=False), _readable)

    return command


def _readable(replies: Sequence[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, redis.RedisError) and not is_wrong_type(reply):
            raise reply
    return [None if isinstance(reply, redis.RedisError) else reply for reply in replies]


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
    names = (text(key).removeprefix(rq_names.queue("")) for key in queue_keys)
    known = ((name, keys.model_of_queue(name)) for name in names)
    return sorted(name for name, of in known if of is not None and model in (None, of))
