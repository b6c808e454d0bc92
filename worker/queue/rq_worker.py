"""RQ's side of the worker: how it is seen, stays alive, takes jobs and keeps house, as RQ 3 does.

Everything here is synchronous and short, and is called in threads by the service. `bootstrap` is RQ's own, and so
is `teardown`, but for the scheduler's locks; the taking of jobs is ours, because RQ loses a job when a worker that
serves several queues dies between the pop and the start (it uses BLPOP there). What RQ hears of a job's start and
end is in `bookkeeping`.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, cast
from uuid import uuid4

import redis
from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ReadyJobRegistry, ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now
from rq.worker.base import WorkerStatus
from rq.worker_registration import clean_worker_registry, register

from producer.contract import InvalidRequest, Keys

from ..errors import is_wrong_type
from ..intake import check_payload_size
from ..settings import WorkerSettings
from .bookkeeping import Bookkeeper

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

ModelState = Literal["loading", "ready"]

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


class GenerationWorker(Bookkeeper):
    """An RQ worker as others see it: in `rq info`, on the dashboard, and to RQ's commands.

    on_stop: called on RQ's pubsub thread when a stop command has come, and stands as the job's request to cancel.
    """

    def __init__(self, settings: WorkerSettings, connection: "Redis", on_stop: Callable[[], None]) -> None:
        self.model_state: ModelState = "loading"
        self._on_stop = on_stop
        # RQ refuses a name until its last bearer's key has expired: a new one for each start.
        name = f"{settings.name or 'genqueue'}-{uuid4().hex[:8]}"
        super().__init__(list(Keys(settings.prefix).queues(settings.model_name)), settings, connection, name=name)
        self._take = connection.register_script(TAKE)
        self._save_meta = connection.register_script(SAVE_META)
        self._beat_execution = connection.register_script(BEAT_EXECUTION)
        self._request_stop = connection.register_script(REQUEST_STOP)
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
            register(self, pipeline)
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
        """The job in a hash; asks Redis nothing.  Raises InvalidRequest when it cannot be read as a job."""
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
        job.redis_server_version = self.redis_server_version
        return job

    def save_progress(self, job: Job, progress: dict[str, Any]) -> None:
        """Put the running job's progress into its meta, beside what its user keeps there."""
        job.meta.update(progress)
        keys = [self.keys.taken(self.name), job.key]
        self._save_meta(keys=keys, args=[job.id, self.serializer.dumps(job.meta)])

    def note_state(self, state: WorkerStatus) -> None:
        """Show the state on the worker's hash; once, however often it is said."""
        if self.get_state() != state:
            self.set_state(state)

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
            # RQ's would have a pool of its own, and stay with a server whose connections we have dropped.
            self._scheduler._connection = self.connection  # type: ignore[assignment]  # noqa: SLF001
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
