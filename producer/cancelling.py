"""How many jobs are cancelled, step by step, without doing any I/O: operations, as those of `operations`.

In chunks of three round trips each, so that Redis serves others in between.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import redis

from .broker.meaning import is_wrong_type
from .contract import GenqueueError, InvalidRequest, Keys, StreamedEvent, UnknownEvent
from .contract.keys import check_job_id, check_model_name
from .following import event_in
from .job_status import JOB_FIELDS, job_fields
from .ledger import rq_names
from .ledger.cancel import CancelAnswer
from .ledger.step import Step
from .operations import CancelOutcome, Operation, Operations, cancel_step
from .overview import queues_of

AT_ONCE = 100
"""Jobs of one chunk."""

Cancelled = CancelOutcome | Literal["no_such_job"]
"""What became of one of many: that one of them is not known is no error."""


class _OpenJob(NamedTuple):
    """A job that has not ended, as it was read."""

    fields: dict[str, str]
    ttl_s: int
    has_events: bool


def cancel_many(operations: Operations, job_ids: Iterable[str]) -> Operation[dict[str, Cancelled]]:
    """Cancel them all. What became of each.  Raises InvalidRequest for what is no id, before anything is done."""
    if isinstance(job_ids, str) or not isinstance(job_ids, Iterable):
        raise InvalidRequest("job_ids is no list of ids: give one, or cancel the one job with cancel()")
    outcomes: dict[str, Cancelled] = {}
    for chunk in _chunks(list(dict.fromkeys(map(check_job_id, job_ids)))):
        outcomes |= yield from _cancel_chunk(operations, chunk)
    return outcomes


def cancel_all(operations: Operations, model: str | None, *, queued_only: bool) -> Operation[dict[Cancelled, int]]:
    """Cancel whatever waits now, of all models of the prefix or of one, and unless queued_only what runs.

    How many of each outcome. What is submitted meanwhile, behind them, is left alone.
    """
    counts: Counter[Cancelled] = Counter()
    queues = yield from queues_of(operations.keys, model if model is None else check_model_name(model))
    for queue in queues:
        counts += yield from _cancel_queue(operations, rq_names.queue(queue))
    if not queued_only:
        # The running ones last: a worker that is free takes what waits.
        for registry in ("deferred", "scheduled", "wip"):
            for queue in queues:
                counts += yield from _cancel_registry(operations, rq_names.registry(registry, queue))
    return dict(counts)


def _cancel_queue(operations: Operations, key: str) -> Operation[Counter[Cancelled]]:
    counts: Counter[Cancelled] = Counter()
    left, kept = int((yield lambda r: r.llen(key))), 0
    while left > 0:
        entries = yield partial(_ask_entries, key, kept, kept + min(left, AT_ONCE) - 1)
        if not entries:
            break
        outcomes = yield from _cancel_chunk(operations, _job_ids(entries))
        counts.update(outcomes.values())
        left -= len(entries)
        # Of those that stay, as what is no id, none is come upon again.
        kept += len(entries) - sum(outcome == "cancelled" for outcome in outcomes.values())
    return counts


def _ask_entries(key: str, first: int, last: int, client: Any) -> Any:
    return client.lrange(key, first, last)


def _cancel_registry(operations: Operations, key: str) -> Operation[Counter[Cancelled]]:
    """An entry is an id, or for those that run `JOB:RUN`."""
    counts: Counter[Cancelled] = Counter()
    entries = yield lambda r: r.zrange(key, 0, -1)
    for chunk in _chunks(_job_ids(entry.partition(b":")[0] for entry in entries)):
        counts.update((yield from _cancel_chunk(operations, chunk)).values())
    return counts


def _cancel_chunk(operations: Operations, job_ids: Sequence[str]) -> Operation[dict[str, Cancelled]]:
    """All that are as they were when they were read, in three round trips; any other by itself."""
    outcomes, open_jobs = yield from _look(operations.keys, job_ids)
    steps = yield from _steps(operations, open_jobs)
    answers = (yield partial(_send, list(steps.values()))) if steps else []
    for (job_id, step), answer in zip(steps.items(), answers, strict=True):
        if isinstance(answer, bytes) and (outcome := step.read(answer)) != "changed":
            outcomes[job_id] = outcome
    for job_id in job_ids:
        if job_id not in outcomes:
            outcomes[job_id] = yield from _cancel_one(operations, job_id)
    return outcomes


def _look(keys: Keys, job_ids: Sequence[str]) -> Operation[tuple[dict[str, Cancelled], dict[str, _OpenJob]]]:
    """Those that have ended, and those that are ours to end."""
    ended: dict[str, Cancelled] = {}
    open_jobs: dict[str, _OpenJob] = {}
    replies = yield partial(_ask_jobs, keys, job_ids)
    for job_id, (values, ttl_s, newest) in zip(job_ids, zip(*[iter(replies)] * 3, strict=True), strict=True):
        fields = {} if isinstance(values, redis.RedisError) else job_fields(values)
        events = _events(newest)
        if events and events[-1].is_terminal:
            ended[job_id] = "ended"
        elif events is not None and keys.model_of_queue(fields.get("origin", "")):
            open_jobs[job_id] = _OpenJob(fields, ttl_s, has_events=bool(events))
    return ended, open_jobs


def _steps(operations: Operations, open_jobs: Mapping[str, _OpenJob]) -> Operation[dict[str, Step[CancelAnswer]]]:
    keys, steps = operations.keys, {}
    begun = [job_id for job_id, job in open_jobs.items() if job.has_events]
    streams = (yield partial(_ask_events, keys, begun)) if begun else []
    histories = dict(zip(begun, map(_events, streams), strict=True))
    for job_id, job in open_jobs.items():
        events = histories.get(job_id, [])
        if events is not None:
            steps[job_id] = cancel_step(
                keys, operations.settings, job_id, job.fields, ttl_s=job.ttl_s, events=events
            )
    return steps


def _events(entries: Any) -> list[StreamedEvent | UnknownEvent] | None:
    """None where they are none, or where Redis has answered something else."""
    if isinstance(entries, redis.RedisError):
        return None
    try:
        return [event_in(*entry) for entry in entries]
    except GenqueueError:
        return None


def _ask_events(keys: Keys, job_ids: Sequence[str], client: Any) -> Any:
    pipeline = client.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.xrange(keys.events(job_id))
    return pipeline.execute(raise_on_error=False)


def _ask_jobs(keys: Keys, job_ids: Sequence[str], client: Any) -> Any:
    """Hash, TTL and last event of each."""
    pipeline = client.pipeline(transaction=False)
    for job_id in job_ids:
        name = rq_names.job(job_id)
        pipeline.hmget(name, JOB_FIELDS).ttl(name).xrevrange(keys.events(job_id), count=1)
    return pipeline.execute(raise_on_error=False)


def _send(steps: Sequence[Step[CancelAnswer]], client: Any) -> Any:
    pipeline = client.pipeline(transaction=False)
    for step in steps:
        step.send(pipeline)
    return pipeline.execute(raise_on_error=False)


def _cancel_one(operations: Operations, job_id: str) -> Operation[Cancelled]:
    try:
        return (yield from operations.cancel(job_id))
    except GenqueueError:
        return "no_such_job"
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        return "no_such_job"


def _chunks(job_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (job_ids[at : at + AT_ONCE] for at in range(0, len(job_ids), AT_ONCE))


def _job_ids(entries: Iterable[bytes]) -> list[str]:
    """Those of a list or registry that are ids."""
    ids: dict[str, None] = {}
    for entry in entries:
        try:
            ids[check_job_id(entry.decode(errors="replace"))] = None
        except InvalidRequest:
            continue
    return list(ids)
