"""What becomes of the jobs of dead workers: back to the front of their queues, or RQ is told of their end.

Each worker keeps the jobs that it has taken in a list of its own until they are put down: the list of a dead one
says exactly what it held, popped and not yet started, running, or ended and not yet registered. The ledger's step
puts back what has not ended; there is no lock, and a sweep survives its own death. `presence` finds who is dead.
"""

import logging
from contextlib import suppress
from typing import Any, cast

import redis
from redis import Redis
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.utils import as_text

from producer.broker.meaning import is_wrong_type, meaning
from producer.contract import GenerationResult, StreamedEvent, parse_entry
from producer.contract.keys import worker_of_taker
from producer.ledger import rq_names
from producer.ledger.stream import discard_result, discard_stream
from producer.ledger.sweep import Member, Swept, claim, settled, sweep

from ..presence import Dead
from .bookkeeping import note_end
from .holding import ENDED
from .rq_types import now_in_rqs_form
from .rq_worker import GenerationWorker

logger = logging.getLogger(__name__)

MAX_RESULT_BYTES = 256 * 2**20
"""A result is text and ids of one answer. What is larger is none, and is not loaded."""
ROUNDS = 1000
"""Of one sweep. A list of taken jobs is short; what somebody pushes into one must not hold a sweeper for ever."""

_IN_RQ = {"finished": JobStatus.FINISHED, "failed": JobStatus.FAILED, "cancelled": JobStatus.STOPPED}


class Sweeper:
    """Sweeps on behalf of one live worker."""

    def __init__(self, worker: GenerationWorker) -> None:
        self._worker = worker
        self._keys = worker.keys
        self._redis: Redis = worker.connection
        self._silent: set[str] = set()

    def sweep(self, dead: Dead) -> None:
        """Put back what a dead worker has left, and tell RQ of what has ended."""
        for taker in (self._keys.settler(dead.member.worker), dead.member.worker):
            self._sweep_list(taker, dead)
        self.settle()

    def dead_of_earlier_versions(self) -> list[Dead]:
        """Workers whose record has expired, among those that do not beat as this version does.

        And which had expired at the look before, a TTL ago, too: after a Redis that came back empty, one of this
        version may have taken a job before its next beat.
        """
        takers = {as_text(name) for name in self._redis.smembers(self._keys.takers)}
        names = sorted({worker_of_taker(taker) for taker in takers} - {self._worker.name})
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.pttl(rq_names.worker(name))
            left_ms = pipeline.execute()
        model = self._worker.settings.model_name
        before, self._silent = self._silent, {name for name, left in zip(names, left_ms, strict=True) if left <= 0}
        return [Dead(Member(name, model), "expired") for name in names if name in before & self._silent]

    def settle(self) -> None:
        """Tell RQ of the ends that this worker has taken on."""
        claimed = self._keys.settling(self._worker.name)
        for raw in cast("list[bytes]", self._redis.lrange(claimed, 0, -1)):
            self._settle(raw.decode(errors="replace"))
            settled(self._keys, self._worker.name, raw).run(self._redis)

    # -- the dead

    def _sweep_list(self, taker: str, dead: Dead) -> None:
        for _ in range(ROUNDS):
            now_text = now_in_rqs_form()
            step = sweep(self._keys, taker, dead.member, dead.sign, entry=dead.entry, now=now_text)
            swept = step.run(self._redis)
            if swept is None:
                return  # it has come back
            self._report(swept, dead)
            for job_id in swept.ended:
                self._take_on(job_id, taker)
            if not swept.back and not swept.ended:
                return

    def _report(self, swept: Swept, dead: Dead) -> None:
        for job_id in swept.back:
            logger.warning(
                "worker %s is dead (%s); job %.80s is back at the front of its queue",
                dead.member.worker,
                dead.sign,
                job_id,
                extra={"job_id": job_id[:80]},
            )

    def _take_on(self, raw_id: bytes, taker: str) -> None:
        """Take a job that has ended off the dead worker's list.

        Where what stands for its end is none, that is deleted, and the next round puts the job back.
        """
        job_id = raw_id.decode(errors="replace")
        job = self._worker.fetch_readable(job_id)
        if job is not None and job.get_status(refresh=False) not in ENDED and not self._end_of(job_id):
            return
        settings = self._worker.settings
        claim(self._keys, taker, self._worker.name, raw_id, ttl_s=settings.keep_held_s).run(self._redis)

    # -- ends of which RQ has not heard

    def _settle(self, job_id: str) -> None:
        job = self._worker.fetch_readable(job_id)
        ended = self._end_of(job_id) if job else None
        if job is None or ended is None:
            return  # its time is over
        executions = self._executions(job)  # of now: whoever runs the job again later has others
        try:
            if job.get_status(refresh=False) not in ENDED:
                self._tell_rq(job, ended, executions)
                logger.warning("job %s had ended; RQ knows of it now", job.id, extra={"job_id": job.id})
            self._drop(job, executions)
        except Exception as error:
            # RQ raises any class over what somebody has written into a job: that must not hold up the others.
            if isinstance(error, redis.RedisError) and meaning(error) != "broken":
                raise  # Redis is full, say: it is settled when that is over
            logger.exception("job %.80r had ended, and RQ cannot note that", job_id, extra={"job_id": job_id[:80]})
            job._status = _IN_RQ.get(ended.status, JobStatus.FAILED)  # noqa: SLF001 - as RQ's own workers set it
            self._worker.let_expire(job)
            with suppress(redis.ResponseError):
                self._drop(job, executions)

    def _tell_rq(self, job: Job, result: GenerationResult, executions: list[Execution]) -> None:
        execution = executions[0] if executions else Execution("settled", job.id, self._redis)
        note_end(job, result)
        if result.status == "finished":
            job.started_at = job.started_at or execution.created_at
            self._worker.succeed(job, execution, result)
        elif result.status == "cancelled":
            self._worker.stopped(job, execution)
        else:
            self._worker.fail(job, execution, result.failure)

    def _end_of(self, job_id: str) -> GenerationResult | None:
        """How the job has ended. Where its result was evicted or deleted, its terminal event says the same."""
        return self._result_or_discard(job_id) or self._last_event_or_discard(job_id)

    def _last_event_or_discard(self, job_id: str) -> GenerationResult | None:
        """Of the terminal event at the end of the job's stream. What only seems one is deleted with its stream."""
        try:
            entries = cast("list[Any]", self._redis.xrevrange(self._keys.events(job_id), count=1))
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            return None
        if not entries:
            return None
        entry_id, fields = entries[0]
        try:
            last = parse_entry(entry_id, fields)
        except (KeyError, ValueError):
            logger.warning(
                "job %.80r: what stands in place of its stream is deleted", job_id, extra={"job_id": job_id[:80]}
            )
            flat = [entry_id, *(part for pair in fields.items() for part in pair)]
            discard_stream(self._keys, job_id, flat).run(self._redis)
            return None
        if isinstance(last, StreamedEvent) and isinstance(last.event.data, GenerationResult):
            return last.event.data
        return None

    def _result_or_discard(self, job_id: str) -> GenerationResult | None:
        """The job's result, or None.  What is none is deleted: by the contract, nothing else has that name."""
        key = self._keys.result(job_id)
        result = b""
        try:
            if self._redis.strlen(key) <= MAX_RESULT_BYTES:
                result = cast("bytes", self._redis.get(key) or b"")
                return GenerationResult.model_validate_json(result) if result else None
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
        except ValueError:
            pass
        logger.warning(
            "job %.80r: what stands in place of its result is deleted", job_id, extra={"job_id": job_id[:80]}
        )
        discard_result(self._keys, job_id, result, max_bytes=MAX_RESULT_BYTES).run(self._redis)
        return None

    def _executions(self, job: Job) -> list[Execution]:
        """RQ's records of runs of the job. One whose hash has expired comes without a worker's name."""
        try:
            ids = ExecutionRegistry(job.id, connection=self._redis).get_execution_ids()
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            return []  # somebody has put something else there
        executions = [Execution(each, job.id, self._redis) for each in ids]
        for execution in executions:
            if fields := self._redis.hgetall(execution.key):
                execution.restore(fields)
        return executions

    def _drop(self, job: Job, executions: list[Execution]) -> None:
        """Take executions out of RQ's registries.

        Found by the job's own record: RQ's index of the worker's executions dies with the worker.
        """
        with self._redis.pipeline() as pipeline:
            for execution in executions:
                execution.delete(job=job, pipeline=pipeline)
            pipeline.execute()
