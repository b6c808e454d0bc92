"""RQ's side of the worker: how it is seen, takes jobs and keeps house, as RQ 3 does.

Everything here is synchronous and short, and is called in threads by the service. The taking of jobs is ours: RQ
loses a job when a worker that serves several queues dies between the pop and the start (it uses BLPOP there). What
RQ hears of a job's start is in `running`, of its end in `bookkeeping`; how the worker is known to be alive, in
`presence`.
"""

import logging
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Literal
from uuid import uuid4

import redis
from redis import Redis
from redis.client import Pipeline
from rq.command import parse_payload
from rq.job import Job
from rq.rate_limit import RateLimitRegistry
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ReadyJobRegistry
from rq.utils import now
from rq.worker.base import WorkerStatus
from rq.worker_registration import clean_worker_registry

from producer.broker.meaning import is_forbidden_key, meaning
from producer.contract import InvalidRequest, Keys, Priority
from producer.contract.compatibility import PUBLISHED_FIELDS
from producer.contract.keys import PRIORITIES
from producer.ledger import rq_names
from producer.ledger.cancel import request_stop
from producer.ledger.take import Dropped, NoJob, Taken, put_down, read_job, save_meta, take, take_due

from ..intake import check_payload_size
from ..pace import Pace
from ..settings import WorkerSettings
from .bookkeeping import Bookkeeper
from .groups import tend_groups

logger = logging.getLogger(__name__)

SOCKET_TIMEOUT_S = 5

ModelState = Literal["loading", "ready"]


class GenerationWorker(Bookkeeper):
    """An RQ worker as others see it: in `rq info`, on the dashboard, and to RQ's commands.

    on_stop: called on RQ's pubsub thread when a stop command has come, and stands as the job's request to cancel.
    """

    def __init__(self, settings: WorkerSettings, connection: "Redis", on_stop: Callable[[], None]) -> None:
        self.model_state: ModelState = "loading"
        self.chat_template: bool | None = None
        """Whether the model takes `messages`; None until it is loaded."""
        self.tool_format: str | None = None
        """The form in which the model writes calls; "" where it takes no `tools`, None until it is loaded."""
        self.context_length: int | None = None
        """Tokens of prompt and answer that fit; None until the model is loaded."""
        self.pace = Pace()
        self._on_stop = on_stop
        # A job that one call has taken, and does not know of yet, is to another one whose answer was lost.
        self._taking = Lock()
        # RQ refuses a name until its last bearer's key has expired: a new one for each start.
        name = f"{settings.name or 'genqueue'}-{uuid4().hex[:8]}"
        super().__init__(list(Keys(settings.prefix).queues(settings.model_name)), settings, connection, name=name)

    # -- what RQ asks of its workers

    @property
    def connection_timeout(self) -> int:
        """RQ raises its connection's socket_timeout to this. Ours never blocks for long."""
        return SOCKET_TIMEOUT_S

    def serialize(self) -> dict[str, Any]:
        """The worker's hash: RQ's fields, and what producers want to know of a generation worker."""
        template = {} if self.chat_template is None else {"chat_template": int(self.chat_template)}
        tools = {} if self.tool_format is None else {"tool_format": self.tool_format}
        context = {} if self.context_length is None else {"context_length": self.context_length}
        return {
            **super().serialize(),
            **template,
            **tools,
            **context,
            **self.pace.fields(),
            "ended_jobs": ",".join(self.ended_jobs),
            "state": self.get_state(),
            "model": self.settings.model_name,
            "model_state": self.model_state,
            "device": self.settings.device,
            "request_fields": ",".join(sorted(PUBLISHED_FIELDS)),
        }

    def get_current_job_id(self) -> str | None:
        """The job that was begun last. RQ's own may name one that has ended and is being registered beside it."""
        begun = self.running_executions()
        return begun[-1].job_id if begun else super().get_current_job_id()

    def kill_horse(self, sig: Any = None) -> None:  # noqa: ARG002 - RQ's signature
        """RQ's stop command for `_stopped_job_id`. There is no horse: it becomes the job's own request to cancel.

        By then that job may have ended and the next one be running, or it may not yet have come as far as the
        runner: a request that names its job stops that one, whenever, and no other.
        """
        if (job_id := self._stopped_job_id) is not None:
            request = request_stop(self.keys, job_id, ttl_s=self.settings.max_result_ttl_s)
            if request.run(self.connection):
                self._on_stop()

    def procline(self, message: str) -> None:
        """RQ would put the job into the process title; nothing of a job belongs there."""

    def bootstrap(self, *_: Any) -> None:
        """RQ's, less its log handlers, whose levels are not ours, and its thread that listens for commands."""
        self.register_birth()
        self.set_state(WorkerStatus.STARTED)

    def subscribe(self) -> None:
        """Commands are heard by `commands`."""

    def handle_payload(self, message: dict[str, Any]) -> None:
        """RQ's commands. What is none must not end the thread that listens for the next."""
        try:
            if not self._stop_parked(parse_payload(message)):
                super().handle_payload(message)
        except redis.RedisError:
            raise
        except Exception:
            logger.exception("a message on the worker's channel is no command of RQ's")

    def _stop_parked(self, payload: Mapping[str, Any]) -> bool:
        """RQ knows one job at a time, and stops no other: one that is parked is stopped by its execution."""
        if payload.get("command") != "stop-job" or payload.get("job_id") == self.get_current_job_id():
            return False
        ours = [each.id for each in self.running_executions() if each.job_id == payload.get("job_id")]
        for execution_id in ours:
            self.request_stop_execution(execution_id)
        return bool(ours)

    # -- being alive

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:  # noqa: ARG002
        """RQ's heartbeat, but for our own TTL whatever it asks for: a dead worker is to be noticed in seconds."""
        super().heartbeat(round(self.settings.heartbeat_ttl_s), pipeline)

    def register_birth(self) -> None:
        """RQ's, less the minutes that it gives a new worker before it counts as dead."""
        super().register_birth()
        self.heartbeat()

    def record(self) -> dict[str, Any]:
        """The worker's hash as it is to stand now. The time in it is this host's: RQ shows it, and no more."""
        self.last_heartbeat = now()
        return self.serialize()

    def keys_of_queues(self) -> dict[Priority, str]:
        """Lists of the jobs that wait, by their priority."""
        model = self.settings.model_name
        return {each: rq_names.queue(self.keys.queue(model, each)) for each in PRIORITIES}

    # -- taking and putting down

    def take(self, above: Priority | None = None) -> Taken | NoJob | None:
        """Take the next job of the highest priority.  above: only one of a higher priority than that."""
        while isinstance(taken := self._take(above), Dropped):
            logger.warning("what was pushed into a queue is no job id and is dropped (%d bytes)", taken.size_bytes)
        return taken

    def _take(self, above: Priority | None) -> Taken | Dropped | NoJob | None:
        with self._taking:
            taken = take(
                self.keys,
                self.name,
                self.settings.model_name,
                known=tuple(self.in_hand),
                list_ttl_s=self.settings.keep_held_s,
                max_bytes=self.settings.max_request_bytes,
                group_max_running=self.settings.group_max_running,
                above=above,
            ).run(self.connection)
            if isinstance(taken, Taken):
                self.in_hand.add(taken.job_id)
                self._origins[taken.job_id] = taken.raw.get(b"origin", b"").decode(errors="replace")
            return taken

    def take_late(self) -> list[Job | str]:
        """Take jobs that have waited for too long, to end them; the bare id of one that cannot be read."""
        settings = self.settings
        step = take_due(self.keys, self.name, settings.model_name, list_ttl_s=settings.keep_held_s)
        with self._taking:
            job_ids = [raw_id.decode() for raw_id in step.run(self.connection)]
            self.in_hand.update(job_ids)
        return [self.fetch_readable(job_id) or job_id for job_id in job_ids]

    def put_down(self, job_id: str) -> None:
        """The job has ended, or is somebody else's."""
        put_down(self.keys, self.name, job_id, self._origins.get(job_id, "")).run(self.connection)
        self.in_hand.discard(job_id)
        self._origins.pop(job_id, None)

    def fetch(self, job_id: str) -> Job | None:
        """The job, or None where its hash is gone.  Raises InvalidRequest when it cannot be read as a job."""
        found = read_job(job_id, max_bytes=self.settings.max_request_bytes).run(self.connection)
        if found is None:
            return None  # or something else stands there, and no job
        size_bytes, raw = found
        return self.read(Taken(job_id, raw, now_ms=0, size_bytes=size_bytes))

    def fetch_readable(self, job_id: str) -> Job | None:
        """The job; None where its hash is gone, or was never one that a worker could read."""
        try:
            return self.fetch(job_id)
        except InvalidRequest:
            return None

    def read(self, taken: Taken) -> Job:
        """The job in a hash; asks Redis nothing.  Raises InvalidRequest when it cannot be read as a job."""
        check_payload_size(taken, self.settings.max_request_bytes)
        try:
            job = self.job_class(taken.job_id, connection=self.connection, serializer=self.serializer)
            job.restore(dict(taken.raw))
        except Exception as error:
            # Any class can come out of RQ for a hash that it did not write.
            raise InvalidRequest(
                f"the job's hash cannot be read ({type(error).__name__}): enqueue through RQ"
            ) from error
        job.redis_server_version = self.redis_server_version
        return job

    def save_progress(self, job: Job, progress: dict[str, Any]) -> None:
        """Put the running job's progress into its meta, beside what its user keeps there."""
        with self._notes:  # a write to the job's hash would break the transaction that registers its end
            if job.id in self.in_hand and job.id not in self._registering:
                job.meta.update(progress)
                save_meta(self.keys, self.name, job.id, self.serializer.dumps(job.meta)).run(self.connection)

    def note_state(self, state: WorkerStatus) -> None:
        """Show the state on the worker's hash; once, however often it is said."""
        if self.get_state() != state:
            self.set_state(state)
            if state == WorkerStatus.SUSPENDED:
                logger.warning("suspended through RQ: no job is taken until `rq resume`")

    # -- housekeeping

    def maintain(self) -> None:
        """What RQ's maintenance does for registries, less the parts that give up on running jobs.

        RQ declares a job abandoned, and fails it, where we put it back: see `sweeping`.
        """
        for queue in self.queues:
            for registry_class in (FinishedJobRegistry, FailedJobRegistry, ReadyJobRegistry):
                registry_class(queue=queue, job_class=self.job_class).cleanup()
            clean_worker_registry(queue)
        self.clean_group_registries()
        tend_groups(self.connection, self.keys, self.settings.model_name)
        self.keep_rate_limits()

    def keep_rate_limits(self) -> None:
        """Let jobs through that wait for RQ's rate limits, also where those before them never gave way."""
        try:
            limits = RateLimitRegistry.all(self.connection)
            for limit in limits:
                self._keep_rate_limit(limit)
        except redis.ResponseError as error:
            if not is_forbidden_key(error):  # by an ACL of before there were any
                raise

    @staticmethod
    def _keep_rate_limit(limit: RateLimitRegistry) -> None:
        try:
            limit.cleanup()
        except (redis.ResponseError, ValueError) as error:
            if isinstance(error, redis.ResponseError) and meaning(error) != "broken":
                raise
            logger.warning("something else stands in place of RQ's rate limit %.80r: %s", limit.key, error)
