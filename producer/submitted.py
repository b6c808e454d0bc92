"""What a producer has submitted and not seen the end of; and how a Ctrl-C ends that, as an operation."""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import redis

from .contract import GenqueueError, InvalidRequest, Keys, StreamedEvent, UnknownEvent
from .following import event_in
from .job_status import JOB_FIELDS, job_fields
from .ledger import rq_names
from .operations import Operation, Operations, cancel_step

logger = logging.getLogger(__name__)

OnInterrupt = Literal["leave", "cancel"]

KEPT = 100_000
"""Ids that are remembered at most, the newest: ten full batches."""
CANCEL_S = 5.0
"""How long cancelling them may take: somebody who pressed Ctrl-C waits for it."""
AT_ONCE = 500
"""Jobs that are cancelled with one pipeline."""


class Submitted:
    """Ids of jobs, in the order in which they were submitted. For any number of threads.

    An id is forgotten once its end was seen here; of those that nobody asks for again, the oldest are.
    """

    def __init__(self, on_interrupt: OnInterrupt) -> None:
        if on_interrupt not in {"leave", "cancel"}:
            raise InvalidRequest(f'on_interrupt is "leave" or "cancel", and not {on_interrupt!r:.80}')
        self.is_kept = on_interrupt == "cancel"
        self._ids: dict[str, None] = {}
        self._changing = threading.Lock()

    def add(self, job_ids: Iterable[str]) -> None:
        """Remember them."""
        if not self.is_kept:
            return
        with self._changing:
            self._ids.update(dict.fromkeys(job_ids))
            while len(self._ids) > KEPT:
                del self._ids[next(iter(self._ids))]

    def discard(self, job_id: str) -> None:
        """It has ended."""
        if self.is_kept:
            with self._changing:
                self._ids.pop(job_id, None)

    def newest_first(self) -> list[str]:
        """In that order no worker takes one because another was cancelled before it."""
        with self._changing:
            return list(reversed(self._ids))


def cancel_submitted(operations: Operations, submitted: Submitted, deadline: float) -> Operation[None]:
    """Cancel them all, as far as it goes before the deadline, of time.monotonic(). The log says how far.

    Whoever pressed Ctrl-C gets no other error for it.
    """
    left = submitted.newest_first()
    count = len(left)
    try:
        while left and time.monotonic() < deadline:
            yield from _cancel_many(operations, left[:AT_ONCE])
            left = left[AT_ONCE:]
    except (redis.RedisError, GenqueueError) as error:
        logger.warning("Ctrl-C: of %d jobs, %d may go on, because Redis said: %s", count, len(left), error)
        return
    if left:
        logger.warning("Ctrl-C: of %d jobs, %d may go on: there was no time to cancel them", count, len(left))
    else:
        logger.info("Ctrl-C: %d jobs were cancelled, or had ended", count)


def _cancel_many(operations: Operations, job_ids: Sequence[str]) -> Operation[None]:
    """Cancel those that have not ended, in three round trips, and one more for each that has moved meanwhile."""
    keys, settings = operations.keys, operations.settings
    looks = yield partial(_look, keys, job_ids)
    open_jobs: dict[str, tuple[dict[str, str], int]] = {}
    for job_id, (newest, values, ttl_s) in zip(job_ids, zip(*[iter(looks)] * 3, strict=True), strict=True):
        fields = {} if isinstance(values, redis.RedisError) else job_fields(values)
        is_ours = keys.model_of_queue(fields.get("origin", "")) is not None
        if is_ours and not isinstance(newest, redis.RedisError) and not _has_ended(newest):
            open_jobs[job_id] = fields, ttl_s
    if not open_jobs:
        return
    streams = yield partial(_read, keys, list(open_jobs))
    steps = {}
    for (job_id, (fields, ttl_s)), entries in zip(open_jobs.items(), streams, strict=True):
        events = [] if isinstance(entries, redis.RedisError) else _events(entries)
        steps[job_id] = cancel_step(keys, settings, job_id, fields, ttl_s=ttl_s, events=events)
    replies = yield lambda r: _send_all(r, [step.send for step in steps.values()])
    for (job_id, step), reply in zip(steps.items(), replies, strict=True):
        # Its worker has published since it was read.
        if not isinstance(reply, redis.RedisError) and step.read(reply) == "changed":
            yield from operations.cancel(job_id)


def _look(keys: Keys, job_ids: Sequence[str], client: Any) -> Any:
    pipeline = client.pipeline(transaction=False)
    for job_id in job_ids:
        job = rq_names.job(job_id)
        pipeline.xrevrange(keys.events(job_id), count=1).hmget(job, JOB_FIELDS).ttl(job)
    return pipeline.execute(raise_on_error=False)


def _read(keys: Keys, job_ids: Sequence[str], client: Any) -> Any:
    pipeline = client.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.xrange(keys.events(job_id))
    return pipeline.execute(raise_on_error=False)


def _send_all(client: Any, commands: Sequence[Any]) -> Any:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        command(pipeline)
    return pipeline.execute(raise_on_error=False)


def _events(entries: Any) -> list[StreamedEvent | UnknownEvent]:
    return [event_in(*entry) for entry in entries]


def _has_ended(newest: Any) -> bool:
    return any(event.is_terminal for event in _events(newest))
