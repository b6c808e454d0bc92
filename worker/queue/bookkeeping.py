"""What RQ hears of a job's end, and of nothing that is not ours to tell. Its start is in `running`.

RQ writes what a job came to without a look at who has the job by then: each of its transactions on a job is given
the look of `holding`. The transaction that registers an end also takes the job out of the list of taken jobs, so
that it cannot go through twice.

Knows RQ's registries, its callbacks and its retries. Knows nothing of how jobs are taken or run.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import RLock
from typing import Any, Literal

from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.utils import now

from producer.contract import GenerationResult, JobError, Keys
from producer.ledger.roster import ENDED_SAID

from ..errors import BookkeepingFailed
from ..intake import MIN_RESULT_TTL_S
from ..settings import WorkerSettings
from .holding import NotHeld
from .running import RunningWorker

logger = logging.getLogger(__name__)

NOTING_TRIES = 3


class GenerationJob(Job):
    """RQ's job, with a retry that stands or falls with its transaction."""

    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """RQ's own writes the status of a job that is to wait ahead of the transaction, and beside it.

        And it counts from this host's clock: the job's time comes by Redis'.
        """
        interval_s = self.get_retry_interval()
        if not interval_s:
            super().retry(queue, pipeline)
            return
        assert self.retries_left
        self.retries_left -= 1
        seconds, microseconds = self.connection.time()
        at = datetime.fromtimestamp(seconds + microseconds / 1e6, UTC) + timedelta(seconds=interval_s)
        queue.schedule_job(self, at, pipeline=pipeline)


class Bookkeeper(RunningWorker):
    """The part of an RQ worker that registers the ends of its jobs, while they are its own."""

    def __init__(
        self, queue_names: list[str], settings: WorkerSettings, connection: "Redis", *, name: str
    ) -> None:
        self.settings = settings
        self.keys = Keys(settings.prefix)
        super().__init__(
            queue_names,
            name=name,
            connection=connection,
            job_class=GenerationJob,
            serializer=JSONSerializer,
            default_result_ttl=round(settings.result_ttl_s),
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self.in_hand: set[str] = set()
        """Jobs in our list that we know of. Another one there was taken, and the answer did not reach us."""
        self._origins = {}
        self._registering: set[str] = set()
        """Jobs whose end RQ is being told: nothing else is written to their hashes meanwhile."""
        self._notes = RLock()  # RQ takes them on the worker, and a sweep may register an end beside a job of ours
        self._failure_noted = False
        self._called_back: set[str] = set()
        self.ended_jobs: tuple[str, ...] = ()
        """Ids of those that have ended here last. RQ's registries do not tell: they are by when a record goes."""

    def succeed(self, job: Job, execution: Execution, result: GenerationResult) -> None:
        """Register the job as finished; the result is RQ's return value too."""
        with self._ending(job, execution):
            job.ended_at = now()
            job.result_ttl = self._bounded_ttl(job.result_ttl)
            job._result = result.model_dump(mode="json")  # noqa: SLF001 - as RQ's own workers set it
            job._status = JobStatus.FINISHED  # noqa: SLF001
            self._call_back(job, "success", job._result)  # noqa: SLF001
            self.handle_job_success(job, self.queue_of(job), job.started_job_registry, execution)
            job.send_webhooks(JobStatus.FINISHED)

    def fail(self, job: Job, execution: Execution, error: JobError) -> None:
        """Register the job as failed, or enqueue it again if RQ's Retry asks for it and it can help."""
        with self._ending(job, execution):
            self._call_back(job, "failure", type(error), error, None)
            if not error.retryable:
                job.retries_left = 0
            self._handle_failure(job, execution, f"{error.code}: {error}")

    def refuse(self, job: Job, error: JobError) -> None:
        """Register a job that was never run as failed. Nothing that it names is called, and it is not retried."""
        with self._ending(job, None):
            job.webhooks = []
            job.retries_left = 0
            self._handle_failure(job, None, f"{error.code}: {error}")

    def stopped(self, job: Job, execution: Execution) -> None:
        """Register the job as stopped, RQ's word for a job that was cancelled while it ran."""
        with self._ending(job, execution):
            self._call_back(job, "stopped")
            self._handle_failure(job, execution, "cancelled", stopped=True)

    @contextmanager
    def _ending(self, job: Job, execution: Execution | None) -> Iterator[None]:
        """Around the registering of a job's end, which may take several calls until Redis has taken it.

        It is over, too, once the job is not ours: it was moved on, or the call before went through and its answer
        was lost.
        """
        with self._notes:
            self._registering.add(job.id)
        try:
            yield
            with self._notes:
                self.ended_jobs = (*self.ended_jobs, job.id)[-ENDED_SAID:]
            if execution is not None:
                self.executions.pop(execution.id, None)
        except NotHeld:
            if execution is not None:
                self.forget(execution)
        finally:
            self._registering.discard(job.id)
        self._called_back.discard(job.id)

    def _handle_failure(self, job: Job, execution: Execution | None, why: str, *, stopped: bool = False) -> None:
        job.ended_at = now()
        job.failure_ttl = self._bounded_ttl(job.failure_ttl)
        retries_left = job.retries_left
        for _ in range(NOTING_TRIES):
            with self._notes:
                self._stopped_job_id = job.id if stopped else None
                self._failure_noted = False
                self.handle_job_failure(job, self.queue_of(job), exc_string=why, execution=execution)
                if self._failure_noted:
                    return
            # RQ has logged an error of Redis and gone on. If Redis takes no writes at all, this raises why.
            job.retries_left = retries_left
            self.connection.hset(self.key, "state", self.get_state())
        raise BookkeepingFailed

    def _release_slot_safely(self, job: Job) -> None:
        """RQ calls this once the failure stands in Redis, and only then: it says so nowhere else.

        The job's status does not: another worker may have taken a job that is enqueued again.
        """
        self._failure_noted = True
        super()._release_slot_safely(job)

    def fail_unreadable(self, job_id: str) -> None:
        """Mark a job that RQ itself cannot read as failed, and let it expire.

        It goes into no registry, whose readers would stumble over it. Where no hash stands, or something else
        under its name, there is nothing of RQ's to change.
        """
        key = self.job_class.key_for(job_id)
        if self.connection.type(key) == b"hash":
            with self.connection.pipeline() as pipeline:
                self._set_last_status(key, JobStatus.FAILED, pipeline)
                pipeline.execute()

    def _set_last_status(self, key: str, status: JobStatus, pipeline: Pipeline) -> None:
        pipeline.hset(key, "status", status)
        pipeline.expire(key, round(self.settings.result_ttl_s))

    def let_expire(self, job: Job) -> None:
        """The least that RQ must know of a job that has ended: its status, and that nothing runs it."""
        self._called_back.discard(job.id)
        self._drop_executions(job)
        with suppress(NotHeld):
            self._write_while_held(job.id, partial(self._set_last_status, job.key, job.get_status(refresh=False)))

    # -- inside the transactions of RQ

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        """RQ calls this in the transaction that registers a job's end.  Raises NotHeld.

        RQ's own forgets the execution at once; ours stays until the end stands in Redis (see `_ending`).
        """
        self._only_while_held(job.id, pipeline, unrun=execution is None)
        for key in self._own_lists:
            pipeline.lrem(key, 1, job.id)
        # Whoever has RQ enqueue it again begins anew; and RQ may have given it up while it ran here.
        pipeline.hdel(job.key, "deaths", "lost_by", "taken_by", "parked_by", "queued_at_ms")
        pipeline.zrem(job.failed_job_registry.key, job.id)
        is_deleted = job.get_status(refresh=False) == JobStatus.FINISHED and job.result_ttl == 0
        if not is_deleted:
            fields: dict[Any, Any] = {"expires_at_ms": ""}  # the wait that it bounded is over
            if job._unreadable_meta is None and isinstance(job.meta, dict):  # noqa: SLF001 - else it stays as it is
                fields["meta"] = self.serializer.dumps(job.meta)
            pipeline.hset(job.key, mapping=fields)
        if execution is not None:
            execution.delete(job=job, pipeline=pipeline)

    def _bounded_ttl(self, ttl_s: int | None) -> int:
        """Of the job in RQ: as it asks, within bounds. RQ's -1 (for ever) is the upper one, and 0 is at once.

        What stays, stays as long as events and result do, see `intake.result_ttl_s`: without it nobody could tell
        that an id which is used again is another request's.
        """
        asked = self.settings.result_ttl_s if ttl_s is None else ttl_s
        bound = self.settings.max_result_ttl_s
        return round(bound if asked < 0 else min(max(asked, MIN_RESULT_TTL_S), bound)) if asked else 0

    def _call_back(self, job: Job, kind: Literal["success", "failure", "stopped"], *args: Any) -> None:
        """Run a callback that a setting allows. Its failure is logged and changes nothing.

        It runs once, however often Redis has to be told of the end: the end of that is in `_ending`.
        """
        if not getattr(job, f"_{kind}_callback_name") or job.id in self._called_back:
            return
        self._called_back.add(job.id)
        try:
            with TimerDeathPenalty(getattr(job, f"{kind}_callback_timeout"), job_id=job.id):
                getattr(job, f"{kind}_callback")(job, self.connection, *args)
        except Exception:
            logger.exception("job %s: its callback failed", job.id, extra={"job_id": job.id})


def note_end(job: Job, result: GenerationResult) -> None:
    """Let the job's meta say how it ended; it is written in the transaction that registers the end."""
    speed = result.timings.tokens_per_second
    job.meta.update(phase=result.status, tokens=result.usage.completion_tokens, tokens_per_second=speed)
