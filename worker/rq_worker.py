"""RQ's side of the worker: the registration, the registries and the queues, as RQ 3 keeps them.

Everything here is synchronous and short, and is called in threads by the service. `bootstrap`, `teardown` and the
bookkeeping are RQ's own; the work loop and the taking of jobs are ours, because RQ loses a job when a worker that
serves several queues dies between the pop and the start (it uses BLPOP there).

RQ writes what a job came to without a look at who has the job by then. So each of its transactions on a job is
given the look, and Redis refuses the transaction if what was seen has changed meanwhile: a worker that was stopped
for so long that another has the job, between any two steps, leaves nothing in RQ's records. The transaction that
registers an end also takes the job out of the list of taken jobs, so that it cannot go through twice.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Lock
from typing import Any, Literal, cast
from uuid import uuid4

import redis
from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ReadyJobRegistry, ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.timeouts import TimerDeathPenalty
from rq.utils import now
from rq.worker.base import BaseWorker, WorkerStatus
from rq.worker_registration import clean_worker_registry

from producer.contract import GenerationResult, InvalidRequest, JobError, Keys
from producer.contract.keys import queues as queue_names_of

from .errors import BookkeepingFailed, is_wrong_type
from .intake import check_payload_size
from .settings import WorkerSettings

logger = logging.getLogger(__name__)

SOCKET_TIMEOUT_S = 5

TAKE = """
-- KEYS   takers, our list of taken jobs, then the queues in the order of their priority
-- ARGV   our name, ttl of the list in s, RQ's key of suspension, RQ's prefix of job hashes,
--        then the ids in our list that we know of
-- Answers the id of a job that is now ours, and its hash; or nothing; or 'suspended'.
-- No moment exists in which a job is in no list.
if redis.call('EXISTS', ARGV[3]) == 1 then return 'suspended' end
local known = {}
for i = 5, #ARGV do known[ARGV[i]] = true end
local id
for _, left in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  if not known[left] then id = left end  -- taken before, but the answer did not reach us
end
for i = 3, #KEYS do
  if id then break end
  id = redis.call('LMOVE', KEYS[i], KEYS[2], 'LEFT', 'RIGHT')
end
if not id then return false end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
local job = ARGV[4] .. id
if redis.call('TYPE', job).ok ~= 'hash' then return {id, {}} end
return {id, redis.call('HGETALL', job)}
"""


PUT_BACK = """
-- KEYS   our list of taken jobs, job hash, queue          ARGV   job id
-- Only while it is ours: a sweep that took us for dead has put it back already.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], 'status', 'queued', 'worker_name', '')
redis.call('LPUSH', KEYS[3], ARGV[1])
return 1
"""

SAVE_META = """
-- KEYS   our list of taken jobs, job hash          ARGV   job id, meta
-- Only while it is ours, and not for a job that was deleted, which would come back as a hash of one field.
if redis.call('LPOS', KEYS[1], ARGV[1]) and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[2], 'meta', ARGV[2])
end
"""

BEAT_EXECUTION = """
-- KEYS   hash of the execution          ARGV   now in unix s, ttl in s
-- RQ's own heartbeat would make a new hash of one that a sweep has deleted.
if redis.call('EXPIRE', KEYS[1], ARGV[2]) == 1 then redis.call('HSET', KEYS[1], 'last_heartbeat', ARGV[1]) end
"""

REQUEST_STOP = """
-- KEYS   result, cancel          ARGV   ttl in s
-- Not for a job that has ended: nobody would take the request away again.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[1])
return 1
"""

SETTLING = ".settling"
"""A worker's second name among the takers: under it stand the ended jobs of the dead that it tells RQ of."""

NOTING_TRIES = 3

ModelState = Literal["loading", "ready"]

_ENDED = (b"finished", b"failed", b"stopped")

UNREAD_FIELDS = frozenset({b"exc_info", b"result"})
"""Of an earlier life of the job. RQ unpacks exc_info whatever its size, and nobody here needs either."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that is ours now, as it stands in Redis. `raw` is empty where its hash has gone."""

    job_id: str
    raw: dict[bytes, bytes]


def text_of(raw_id: bytes) -> str | None:
    """A job id out of a list.  None for what is no text: anybody can push anything into a queue."""
    try:
        return raw_id.decode()
    except UnicodeDecodeError:
        return None


class NotHeld(Exception):
    """The job is not ours any more, or its end stands in RQ already: nothing of it is ours to write."""


class GenerationJob(Job):
    """RQ's job, with a retry that stands or falls with its transaction."""

    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """RQ's own writes the status of a job that is to wait ahead of the transaction, and beside it."""
        interval_s = self.get_retry_interval()
        if not interval_s:
            super().retry(queue, pipeline)
            return
        assert self.retries_left
        self.retries_left -= 1
        queue.schedule_job(self, now() + timedelta(seconds=interval_s), pipeline=pipeline)


class GenerationWorker(BaseWorker):
    """An RQ worker as others see it: in `rq info`, on the dashboard, and to RQ's commands.

    on_stop: called on RQ's pubsub thread when a stop command has come, and stands as the job's request to cancel.
    """

    def __init__(self, settings: WorkerSettings, connection: "Redis", on_stop: Callable[[], None]) -> None:
        self.settings = settings
        self.keys = Keys(settings.prefix)
        self.model_state: ModelState = "loading"
        self._on_stop = on_stop
        stem = settings.name or "genqueue"
        super().__init__(
            list(queue_names_of(settings.model_name)),
            # RQ refuses a name until its last bearer's key has expired: a new one for each start.
            name=f"{stem}-{uuid4().hex[:8]}",
            connection=connection,
            job_class=GenerationJob,
            serializer=JSONSerializer,
            default_result_ttl=round(settings.result_ttl_s),
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._take = connection.register_script(TAKE)
        self._save_meta = connection.register_script(SAVE_META)
        self._put_back = connection.register_script(PUT_BACK)
        self._beat_execution = connection.register_script(BEAT_EXECUTION)
        self._request_stop = connection.register_script(REQUEST_STOP)
        self._notes = Lock()  # RQ takes them on the worker, and a sweep may register an end beside a job of ours
        self._failure_noted = False
        self._called_back: set[str] = set()
        self._scheduler: RQScheduler | None = None

    # -- what RQ asks of its workers

    @property
    def connection_timeout(self) -> int:
        """RQ raises its connection's socket_timeout to this. Ours never blocks for long."""
        return SOCKET_TIMEOUT_S

    def serialize(self) -> dict[str, Any]:
        """The worker's hash: RQ's fields, and what producers want to know of a generation worker."""
        return {
            **super().serialize(),
            "state": self.get_state(),
            "model": self.settings.model_name,
            "model_state": self.model_state,
            "device": self.settings.device,
        }

    def get_current_job_id(self) -> str | None:
        """The job that was begun last. RQ's own may name one that has ended and is being registered beside it."""
        if not self.executions:
            return super().get_current_job_id()
        return next(reversed(self.executions.values())).job_id

    def kill_horse(self, sig: Any = None) -> None:  # noqa: ARG002 - RQ's signature
        """RQ's stop command for `_stopped_job_id`. There is no horse: it becomes the job's own request to cancel.

        By then that job may have ended and the next one be running, or it may not yet have come as far as the
        runner: a request that names its job stops that one, whenever, and no other.
        """
        if (job_id := self._stopped_job_id) is not None:
            names = [self.keys.result(job_id), self.keys.cancel(job_id)]
            if self._request_stop(keys=names, args=[round(self.settings.max_result_ttl_s)]):
                self._on_stop()

    def procline(self, message: str) -> None:
        """RQ would put the job into the process title; nothing of a job belongs there."""

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """RQ's handler lets a TimeoutError end the thread, and with it every later command."""
        wrapped = redis.ConnectionError(str(exc)) if isinstance(exc, redis.RedisError) else exc
        super()._pubsub_exception_handler(wrapped, pubsub, pubsub_thread)

    def handle_payload(self, message: dict[str, Any]) -> None:
        """RQ's commands. What is none must not end the thread that listens for the next."""
        try:
            super().handle_payload(message)
        except redis.RedisError:
            raise
        except Exception:
            logger.exception("a message on the worker's channel is no command of RQ's")

    # -- being alive

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:  # noqa: ARG002
        """RQ's heartbeat, but for our own TTL whatever it asks for: a dead worker is to be noticed in seconds."""
        super().heartbeat(round(self.settings.heartbeat_ttl_s), pipeline)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002 - RQ's signature
        """Of a job's records in RQ: they time out after the worker does, so that our recovery comes first."""
        return round(self.settings.heartbeat_ttl_s) + 60

    def register_birth(self) -> None:
        """RQ's, less the minutes that it gives a new worker before it counts as dead."""
        super().register_birth()
        self.heartbeat()

    def beat(self, job: Job | None, execution: Execution | None) -> None:
        """Say that the worker, and the job that it runs, are alive."""
        ttl_s = round(self.settings.heartbeat_ttl_s)
        with self.connection.pipeline() as pipeline:
            self.last_heartbeat = now()
            # All fields, and not only the time: a Redis that came back empty has forgotten us.
            pipeline.hset(self.key, mapping=cast("Any", self.serialize()))
            pipeline.expire(self.key, ttl_s)
            pipeline.sadd(self.redis_workers_keys, self.key)
            for queue in self.queues:
                pipeline.sadd(f"rq:workers:{queue.name}", self.key)
            if job is not None and execution is not None:
                self._beat_job(job, execution, pipeline)
            pipeline.execute()

    def _beat_job(self, job: Job, execution: Execution, pipeline: Pipeline) -> None:
        ttl_s = self.get_heartbeat_ttl(job)
        self._beat_execution(keys=[execution.key], args=[now().timestamp(), ttl_s], client=pipeline)
        job.started_job_registry.add_execution(execution, pipeline=pipeline, ttl=ttl_s, xx=True)
        ExecutionRegistry(job.id, connection=pipeline).add(execution, ttl_s, pipeline=pipeline, xx=True)
        pipeline.expire(self.executions_key, ttl_s)
        pipeline.expire(self.keys.taken(self.name), round(self.settings.max_result_ttl_s))
        pipeline.expire(self.keys.takers, round(self.settings.max_result_ttl_s))

    # -- taking and putting down

    def take(self, known: Collection[str] = ()) -> Taken | Literal["suspended"] | None:
        """Take the next job of the highest priority.  known: jobs that are ours and not yet put down."""
        while answer := self._take(
            keys=[self.keys.takers, self.keys.taken(self.name), *self.queue_keys()],
            args=[
                self.name,
                round(self.settings.max_result_ttl_s),
                WORKERS_SUSPENDED,
                self.job_class.redis_job_namespace_prefix,
                *known,
            ],
        ):
            if isinstance(answer, bytes):
                return "suspended"
            raw_id, flat = answer
            if job_id := text_of(raw_id):
                return Taken(job_id, dict(zip(flat[::2], flat[1::2], strict=True)))
            # Nobody can be waiting for a job without an id; and it must not be taken again and again.
            logger.warning("what was pushed into a queue is no job id and is dropped: %.80r", raw_id)
            self.connection.lrem(self.keys.taken(self.name), 0, raw_id)
        return None

    def put_down(self, job_id: str) -> None:
        """The job has ended, or is somebody else's."""
        self.connection.lrem(self.keys.taken(self.name), 1, job_id)

    def has_lost(self, job_id: str) -> bool:
        """Whether a sweep has taken us for dead and moved the job on: what RQ knows of it is not ours to write.

        A Redis that came back empty has no list of ours either. But it has no job: nobody else can run it.
        """
        return self._has_lost(job_id, self.connection.execute_command)

    def _has_lost(self, job_id: str, command: Callable[..., Any]) -> bool:
        try:
            if any(command("LPOS", key, job_id) is not None for key in self._own_lists):
                return False
            status, worker_name = command("HMGET", self.job_class.key_for(job_id), "status", "worker_name")
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            return True  # somebody has put something else there, and RQ knows nothing of the job any more
        return status is not None and not (status == b"started" and worker_name == self.name.encode())

    @property
    def _own_lists(self) -> tuple[str, str]:
        """Lists of jobs that are ours: those to run, and those of the dead whose end we tell RQ of."""
        return self.keys.taken(self.name), self.keys.taken(f"{self.name}{SETTLING}")

    def _only_while_held(self, job_id: str, pipeline: Pipeline, *, unrun: bool = False) -> None:
        """Let a transaction through only while the job is ours.  Raises NotHeld when it is not.

        unrun: nobody has run the job, and it may still wait in its queue; its end is to be registered once.
        The look is sent at once. All else that the pipeline has been given, and is given yet, waits for `execute`,
        which raises WatchError if what was seen has changed.
        """
        command = pipeline.immediate_execute_command
        key = self.job_class.key_for(job_id)
        command("WATCH", *self._own_lists, key)
        pipeline.explicit_transaction = True
        lost = command("HGET", key, "status") in _ENDED if unrun else self._has_lost(job_id, command)
        if lost:
            raise NotHeld

    def _write_while_held(self, job_id: str, write: Callable[[Pipeline], None]) -> None:
        """Have the commands of `write` carried out as one transaction, while the job is ours.  Raises NotHeld."""
        while True:
            with suppress(redis.WatchError), self.connection.pipeline() as pipeline:
                self._only_while_held(job_id, pipeline)
                write(pipeline)
                pipeline.execute()
                return

    def fetch(self, job_id: str) -> Job | None:
        """The job, or None where its hash is gone.  Raises InvalidRequest when it cannot be read as a job."""
        try:
            raw = cast("dict[bytes, bytes]", self.connection.hgetall(self.job_class.key_for(job_id)))
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            return None  # something else stands there, and no job
        return self.read(Taken(job_id, raw)) if raw else None

    def read(self, taken: Taken) -> Job:
        """The job in a hash.  Raises InvalidRequest when it cannot be read as a job."""
        check_payload_size(taken.raw, self.settings.max_request_bytes)
        raw = {name: value for name, value in taken.raw.items() if name not in UNREAD_FIELDS}
        try:
            job = self.job_class(taken.job_id, connection=self.connection, serializer=self.serializer)
            job.restore(raw)
        except Exception as error:
            # Any class can come out of RQ for a hash that it did not write.
            raise InvalidRequest(
                f"the job's hash cannot be read ({type(error).__name__}): enqueue through RQ"
            ) from error
        job.redis_server_version = self.get_redis_server_version()
        return job

    # -- bookkeeping

    def queue_of(self, job: Job) -> Queue:
        """The queue that the job came from."""
        return self.queue_class(job.origin, connection=self.connection, serializer=self.serializer)

    def begin(self, job: Job) -> Execution:
        """Register the job as started. If it is not ours any more, nothing is written."""
        try:
            self._write_while_held(job.id, partial(self._begin, job))
        except NotHeld:
            return Execution("superseded", job.id, self.connection, worker_name=self.name)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            # One of RQ's keys for the job is of somebody else's making. It is not shown as running, and runs.
            logger.warning("job %s: RQ cannot register its start: %s", job.id, error)
        [execution] = self._executions_of(job)
        return execution

    def _begin(self, job: Job, pipeline: Pipeline) -> None:
        """What RQ does in `prepare_execution` and `prepare_job_execution`, in one transaction."""
        self._drop_executions(job)  # of a try that Redis took, and whose answer was lost
        execution = Execution.create(job, self.get_heartbeat_ttl(job), pipeline, worker_name=self.name)
        self.executions[execution.id] = execution
        self.set_state(WorkerStatus.BUSY, pipeline=pipeline)
        self.heartbeat(pipeline=pipeline)
        job.prepare_for_execution(self.name, pipeline)
        pipeline.persist(job.key)

    def _executions_of(self, job: Job) -> list[Execution]:
        return [execution for execution in self.executions.values() if execution.job_id == job.id]

    def _drop_executions(self, job: Job) -> None:
        for execution in self._executions_of(job):
            with self.connection.pipeline() as pipeline:
                super().cleanup_execution(job, pipeline=pipeline, execution=execution)
                pipeline.execute(raise_on_error=False)

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        """RQ calls this in the transaction that registers a job's end.  Raises NotHeld.

        RQ's own forgets the execution at once; ours stays until the end stands in Redis (see `_ending`).
        """
        self._only_while_held(job.id, pipeline, unrun=execution is None)
        for key in self._own_lists:
            pipeline.lrem(key, 1, job.id)
        if execution is None:
            pipeline.hdel(job.key, "deaths")  # whoever has RQ enqueue it again begins anew
        else:
            execution.delete(job=job, pipeline=pipeline)

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
        try:
            yield
            if execution is not None:
                self.executions.pop(execution.id, None)
        except NotHeld:
            if execution is not None:
                self.forget(execution)
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
            self.beat(None, None)
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

    def put_back(self, job: Job, execution: Execution) -> None:
        """Put a job that has not ended at the front of its queue, in one step."""
        with self.connection.pipeline() as pipeline:
            super().cleanup_execution(job, pipeline=pipeline, execution=execution)
            keys = [self.keys.taken(self.name), job.key, self.queue_of(job).key]
            self._put_back(keys=keys, args=[job.id], client=pipeline)
            pipeline.execute()

    def forget(self, execution: Execution) -> None:
        """Another worker has the job: drop our own record of it, and touch nothing that may be the other's."""
        self.executions.pop(execution.id, None)
        with self.connection.pipeline() as pipeline:
            pipeline.delete(execution.key)
            pipeline.srem(self.executions_key, execution.composite_key)
            pipeline.execute()

    def save_progress(self, job: Job, progress: dict[str, Any]) -> None:
        """Put the running job's progress into its meta, beside what its user keeps there."""
        job.meta.update(progress)
        keys = [self.keys.taken(self.name), job.key]
        self._save_meta(keys=keys, args=[job.id, self.serializer.dumps(job.meta)])

    def note_state(self, state: WorkerStatus) -> None:
        """Show the state on the worker's hash; once, however often it is said."""
        if self.get_state() != state:
            self.set_state(state)

    def _bounded_ttl(self, ttl_s: int | None) -> int | None:
        if ttl_s is None:
            return round(self.settings.result_ttl_s)
        bound = round(self.settings.max_result_ttl_s)
        return bound if ttl_s < 0 else min(ttl_s, bound)

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
            logger.exception("job %s: its callback failed", job.id)

    # -- housekeeping

    def maintain(self) -> None:
        """What RQ's maintenance does for registries, less the parts that give up on running jobs.

        RQ declares a job abandoned, and fails it, where we put it back: see `recovery`.
        """
        for queue in self.queues:
            for registry_class in (FinishedJobRegistry, FailedJobRegistry, ReadyJobRegistry):
                registry_class(queue=queue, job_class=self.job_class).cleanup()
            clean_worker_registry(queue)
        self.clean_group_registries()

    def enqueue_scheduled(self) -> None:
        """Enqueue the jobs whose time has come (Retry with an interval, enqueue_in).

        In a thread, because RQ's scheduler would fork, and not more than one for all workers of a queue.
        """
        if self._scheduler is None:
            self._scheduler = RQScheduler(
                self.queues, connection=self.connection, serializer=self.serializer, logging_level=logging.WARNING
            )
        if self._scheduler.should_reacquire_locks:
            self._scheduler.acquire_locks()
        if self._scheduler.acquired_locks:
            self._scheduler.heartbeat()
            self._pass_on_unreadable()
            self._scheduler.enqueue_scheduled_jobs()

    def _pass_on_unreadable(self) -> None:
        """Move due jobs that RQ cannot read to their queue, where they are refused.

        RQ's scheduler stops at the first of them, now and every time, and schedules no other.
        """
        for queue in self.queues:
            registry = ScheduledJobRegistry(queue=queue, job_class=self.job_class)
            for job_id in registry.get_jobs_to_schedule():
                try:
                    self.fetch(job_id)
                except InvalidRequest:
                    with self.connection.pipeline() as pipeline:
                        pipeline.zrem(registry.key, job_id)
                        pipeline.rpush(queue.key, job_id)
                        pipeline.execute()

    def teardown(self) -> None:
        """RQ's teardown, and the scheduler's locks."""
        if self._scheduler is not None:
            self._scheduler.release_locks()
        super().teardown()
