"""The worker as an asyncio program: its tasks, its signals, and one job after another.

    take -> read the order -> run, while RQ hears of the start -> take the next, while RQ hears of the end

The loop never waits for torch, which lives in the engine process. RQ is synchronous and is called in threads,
each call bounded by the socket's time-out. Side tasks wait out every trouble of Redis; if one dies of something
else, the worker stops, because half a worker is worse than none.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import redis
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.executions import Execution
from rq.job import Job
from rq.worker.base import WorkerStatus

from producer.broker import urls
from producer.broker.advice import broker_unavailable, may_pass
from producer.broker.outage import Outage, outlast
from producer.contract import JobError, JobExpired, Keys, job_error
from producer.contract.keys import check_job_id
from producer.ledger.take import Taken

from .engine_process.process import EngineProcess
from .errors import BookkeepingFailed, is_wrong_type
from .intake import MIN_RESULT_TTL_S, check_deaths, read_order, result_ttl_s
from .job import Done, Order, Outcome, PutBack, Retry as RetryOutcome, Superseded
from .metrics import Metrics
from .presence import Presence, watch
from .queue.commands import HEALTH_CHECK_S, listen
from .queue.rq_worker import SOCKET_TIMEOUT_S, GenerationWorker
from .run.runner import Runner
from .settings import WorkerSettings
from .upkeep import Upkeep

logger = logging.getLogger(__name__)

T = TypeVar("T")

PEEK_S = 4
"""A blocked read ends before any socket time-out does."""
RETRY_S = 1.0
SUSPENSION_POLL_S = 1.0
CANCEL_AGAIN_S = 0.5


class Service:
    """One worker process, from its start to its end."""

    def __init__(self, settings: WorkerSettings, engine: EngineProcess) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = Metrics()
        self._redis = _client(settings.redis_url)
        self._aredis = _async_client(settings.redis_url, SOCKET_TIMEOUT_S)
        # Blocked reads have a pool of their own: they must not keep connections from appends.
        self._peeking = _async_client(settings.redis_url, PEEK_S + SOCKET_TIMEOUT_S)
        self._on_link: Callable[[], None] = lambda: None
        self._link = _async_client(
            settings.redis_url, SOCKET_TIMEOUT_S, max_connections=1, redis_connect_func=self._linked
        )
        self._listening = _async_client(
            settings.redis_url, SOCKET_TIMEOUT_S, socket_keepalive=True, health_check_interval=HEALTH_CHECK_S
        )
        self.runner = Runner(
            engine,
            self._aredis,
            Keys(settings.prefix),
            worker_name="",  # RQ's worker draws it when it registers
            cancel_poll_s=settings.cancel_poll_s,
            live_ttl_s=settings.max_result_ttl_s,
        )
        self._stopping = asyncio.Event()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._booking = asyncio.Lock()
        self._running: tuple[Job, Execution] | None = None
        self._registering: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Work until a signal says otherwise.

        Raises BrokerUnavailable when Redis cannot be used at the start, ConfigError when the engine cannot load.
        """
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        self.worker = await self._connect()
        settings = self.settings
        self.presence = Presence(
            self._link,
            Keys(settings.prefix),
            settings.model_name,
            self.worker.name,
            self.worker.record,
            ttl_s=settings.heartbeat_ttl_s,
            keep_s=settings.max_result_ttl_s,
            beat_interval_s=settings.heartbeat_interval_s,
        )
        self._on_link = self.presence.connected
        self.upkeep = Upkeep(self.worker, self.presence, self._aredis, self._end_late)
        self.runner.worker_name = self.worker.name
        self._serve_metrics()
        try:
            await self._run_tasks()
        except ExceptionGroup as group:
            raise _first(group) from group
        finally:
            await self._leave()

    async def _connect(self) -> GenerationWorker:
        """Register with Redis, waiting for it as long as the setting allows."""
        deadline, outage = time.monotonic() + self.settings.broker_wait_s, Outage("starting")
        while True:
            try:
                worker = GenerationWorker(self.settings, self._redis, on_stop=self._on_stop_command)
                await asyncio.to_thread(worker.get_redis_server_version)  # every job is told, and no job is to ask
                await asyncio.to_thread(worker.bootstrap, self.settings.log_level.upper())
            except redis.RedisError as error:
                if self._stopping.is_set() or time.monotonic() > deadline or not may_pass(error):
                    raise broker_unavailable(error) from error
                outage.note(error)
                await asyncio.sleep(RETRY_S)
            else:
                outage.over()
                return worker

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            side = [
                tasks.create_task(self._every(RETRY_S, self._be_present), name="presence"),
                tasks.create_task(self._every(0, self.upkeep.step), name="upkeep"),
                tasks.create_task(self._every(RETRY_S, self._hear_commands), name="commands"),
                tasks.create_task(
                    self._every(self.settings.progress_interval_s, self._save_progress), name="progress"
                ),
                tasks.create_task(
                    self._every(self.settings.maintenance_interval_s, self._maintain), name="maintenance"
                ),
                *(tasks.create_task(self._watch(key), name=f"watch {key}") for key in self.worker.queue_keys()),
            ]
            await self._until_stopped(self._start_engine())
            while not self._stopping.is_set():
                await self._serve_next()
            await self._wait_until_registered()
            await _end(side)

    # -- one job after another

    async def _serve_next(self) -> None:
        """Take a job and see it through, or wait until there is one."""
        taken = await self._rq(self.worker.take)
        if taken == "suspended":
            await self._rq(self.worker.note_state, WorkerStatus.SUSPENDED)
            await self._wait_for(self._stopping, SUSPENSION_POLL_S)
        elif taken is None:
            await self._wait_for_work()
        else:
            await self._serve(taken)

    async def _serve(self, taken: Taken) -> None:
        taken_at = time.monotonic()
        try:
            job = self._read(taken)
        except JobError as error:
            await self._refuse(taken.job_id, error)
            await self._rq(self.worker.fail_unreadable, taken.job_id)
            await self._rq(self.worker.put_down, taken.job_id)
            return
        try:
            check_deaths(taken.raw, self.settings.max_attempts)
            order = read_order(job, taken, self.settings, tuple(self.worker.queue_names()))
        except JobError as error:
            await self._fail_unrun(job, error)
            await self._rq(self.worker.put_down, job.id)
            return
        await self._run(job, order, taken_at)

    def _read(self, taken: Taken) -> Job:
        check_job_id(taken.job_id)
        if not taken.raw and not taken.size_bytes:
            raise JobExpired(
                "the job's record is gone from Redis: it was evicted for memory (see maxmemory-policy), deleted, "
                "or its ttl ran out before a worker took it: submit it again"
            )
        return self.worker.read(taken)

    async def _refuse(self, job_id: str, error: JobError, *, ttl_s: float = MIN_RESULT_TTL_S) -> None:
        logger.info("job %.80r is refused: %s", job_id, error.code)
        outcome = await self.runner.refuse(job_id, self.settings.model_name, error, result_ttl_s=ttl_s)
        if isinstance(outcome, Done):
            self.metrics.observe(outcome.result, None)

    async def _fail_unrun(self, job: Job, error: JobError) -> None:
        await self._refuse(job.id, error, ttl_s=result_ttl_s(job, self.settings))
        await self._book(self.worker.refuse, job, error)

    async def _run(self, job: Job, order: Order, taken_at: float) -> None:
        # RQ hears of the start while the engine reads the prompt: neither waits for the other.
        beginning = asyncio.create_task(self._begin(job), name=f"begin {job.id}")
        self.metrics.busy.set(1)
        try:
            outcome = await self.runner.run(order)
        finally:
            execution = await beginning
            self._running = None
            self.metrics.busy.set(0)
        if isinstance(outcome, Done):
            self.metrics.observe(outcome.result, time.monotonic() - taken_at)
        await self._register_soon(job, execution, outcome)
        if self.engine.died and not self._stopping.is_set():
            await self._until_stopped(self._start_engine())

    async def _begin(self, job: Job) -> Execution:
        execution = await self._rq(self.worker.begin, job)
        self._running = job, execution
        return execution

    async def _register_soon(self, job: Job, execution: Execution, outcome: Outcome) -> None:
        """Let RQ know how the job ended. After a good end the next job need not wait for that.

        The stream and the result stand already, and until RQ knows, the job stays in our list of taken jobs,
        where a sweep would find it. One at a time, so that a slow Redis cannot pile them up.
        """
        await self._wait_until_registered()
        task = asyncio.create_task(self._register(job, execution, outcome), name=f"register {job.id}")
        self._registering[job.id] = task
        if not (isinstance(outcome, Done) and outcome.result.status == "finished"):
            await self._wait_until_registered()

    async def _wait_until_registered(self) -> None:
        """Wait until RQ knows of every end so far."""
        for job_id, task in list(self._registering.items()):
            await task
            del self._registering[job_id]

    async def _register(self, job: Job, execution: Execution, outcome: Outcome) -> None:
        if await self._rq(self.worker.has_lost, job.id):
            outcome = Superseded()
        match outcome:
            case Done(result) if result.status == "finished":
                self.worker.note_end(job, result)
                await self._book(self.worker.succeed, job, execution, result)
            case Done(result) if result.status == "cancelled":
                self.worker.note_end(job, result)
                await self._book(self.worker.stopped, job, execution)
            case Done(result):
                assert result.error is not None
                self.worker.note_end(job, result)
                await self._book(
                    self.worker.fail, job, execution, job_error(result.error.code, result.error.message)
                )
            case RetryOutcome(error):
                await self._book(self.worker.fail, job, execution, error)
            case PutBack(why, engine_died):
                logger.info("job %s goes back into its queue: %s", job.id, why)
                self.metrics.requeued.inc()
                put_back = self.worker.put_back_after_death if engine_died else self.worker.put_back
                await self._book(put_back, job, execution)
            case Superseded():
                await self._rq(self.worker.forget, execution)
        await self._rq(self.worker.put_down, job.id)
        logger.info("job %s: %s", job.id, _summary(outcome))

    # -- waiting for work

    async def _wait_for_work(self) -> None:
        await self._wait_until_registered()
        self._work.clear()
        self._idle.set()
        await self._rq(self.worker.note_state, WorkerStatus.IDLE)
        stopping = asyncio.create_task(self._stopping.wait())
        work = asyncio.create_task(self._work.wait())
        await asyncio.wait((stopping, work), timeout=PEEK_S, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        work.cancel()
        self._idle.clear()

    async def _watch(self, queue_key: str) -> None:
        """Wake the loop when the queue holds a job.

        BLMOVE from the head of a list to the head of the same list is a look that blocks and takes nothing: the
        job is then taken by the script that knows the priorities, and a worker that dies here holds nothing.
        """
        while True:
            await self._idle.wait()
            look = partial(self._peeking.blmove, queue_key, queue_key, PEEK_S, "LEFT", "LEFT")
            if await outlast(look, f"watching {queue_key}"):
                self._idle.clear()
                self._work.set()

    async def _wait_for(self, event: asyncio.Event, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()

    # -- side tasks

    async def _every(self, interval_s: float, step: Callable[[], Awaitable[None]]) -> None:
        """Do the step again and again. Redis being away is no reason to end."""
        name = step.__name__.strip("_")
        outage = Outage(name)
        while True:
            try:
                await step()
            except redis.RedisError as error:
                outage.note(error)
            except Exception:
                # RQ stumbled over something that somebody has written. That must not end the worker for everybody.
                logger.exception("%s failed and is tried again", name)
            else:
                outage.over()
            await asyncio.sleep(interval_s)

    async def _linked(self, connection: Any) -> None:
        await connection.on_connect()
        self._on_link()

    async def _be_present(self) -> None:
        await watch(
            self.presence,
            beat_interval_s=self.settings.heartbeat_interval_s,
            on_beat=self.upkeep.note_beat,
            on_dead=self.upkeep.note_dead,
        )

    async def _hear_commands(self) -> None:
        await listen(self._listening, self.worker)

    async def _end_late(self, job: Job | str) -> None:
        if isinstance(job, str):
            await self._refuse(job, JobExpired())
            await self._rq(self.worker.put_down, job)
        else:
            await self._fail_unrun(job, JobExpired())
            await self._rq(self.worker.put_down, job.id)

    async def _save_progress(self) -> None:
        if self._running and self.runner.attempt:
            progress = self.runner.attempt.progress
            await asyncio.to_thread(self.worker.save_progress, self._running[0], progress.as_dict())

    async def _maintain(self) -> None:
        await asyncio.to_thread(self.worker.maintain)

    def _serve_metrics(self) -> None:
        if self.settings.metrics_port is not None:
            port = self.metrics.serve(self.settings.metrics_host, self.settings.metrics_port)
            logger.info("metrics at http://%s:%d/metrics", self.settings.metrics_host, port)

    # -- engine, signals, the end

    async def _start_engine(self) -> None:
        self.worker.model_state = "loading"
        info = await self.engine.start()
        self.metrics.engine_starts.inc()
        self.worker.model_state = "ready"
        await outlast(self.presence.beat, "saying that the model is ready")
        self.metrics.describe_engine(info)
        logger.info("%s is ready: %s", self.settings.model_name, info.summary())

    async def _until_stopped(self, work: Awaitable[None]) -> None:
        """Wait for the work, or until the worker is told to stop."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()
            await asyncio.wait((task,))

    def _on_signal(self, number: int) -> None:
        """The first: finish the running job within the grace, else put it back. The second: put it back now."""
        assert self._loop is not None
        if self._stopping.is_set():
            logger.warning("%s again: the running job is put back now", signal.Signals(number).name)
            self.runner.abort("shutdown")
            return
        logger.info("%s: stopping after the running job", signal.Signals(number).name)
        self._stopping.set()
        self._loop.call_later(self.settings.shutdown_grace_s, lambda: self.runner.abort("shutdown"))

    def _on_stop_command(self) -> None:
        """RQ's stop command; called on its pubsub thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.runner.look_for_cancel)

    async def _leave(self) -> None:
        await self.engine.close()
        with contextlib.suppress(redis.RedisError):
            await self.presence.leave()
            await asyncio.to_thread(self.worker.teardown)
        await self._link.aclose()
        await self._listening.aclose()
        await self._aredis.aclose()
        await self._peeking.aclose()
        self._redis.close()

    async def _book(self, call: Callable[..., None], job: Job, *args: object) -> None:
        """Have RQ note what became of a job.

        The stream and the result say so already. A job whose keys or fields RQ stumbles over, which anybody can
        write, is left at that: it must not keep the worker from the next one.
        """
        try:
            async with self._booking:  # RQ's bookkeeping takes notes on the worker: one job at a time
                await self._rq(_giving_up_on_wrong_types(call), job, *args)
        except Exception:
            logger.exception("job %s: RQ could not note what became of it", job.id)
            await self._rq(self.worker.let_expire, job)

    async def _rq(self, call: Callable[..., T], *args: object) -> T:
        """Call RQ in a thread, and again until Redis has taken it: what a job came to must be written down."""
        return await outlast(lambda: asyncio.to_thread(call, *args), "RQ's bookkeeping")


def _giving_up_on_wrong_types(call: Callable[..., None]) -> Callable[..., None]:
    def attempt(*args: object) -> None:
        """Raises BookkeepingFailed."""
        try:
            call(*args)
        except redis.ResponseError as error:
            if is_wrong_type(error):
                raise BookkeepingFailed(str(error)) from error
            raise

    return attempt


def _client(url: str) -> Redis:
    # No retries inside: each caller has a loop of its own, and knows what to do meanwhile.
    timeouts = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
    return urls.client(url, retry=Retry(NoBackoff(), 0), **timeouts)


def _async_client(url: str, timeout_s: float, **options: Any) -> AsyncRedis:
    retry = AsyncRetry(NoBackoff(), 0)
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": SOCKET_TIMEOUT_S}
    return urls.async_client(url, retry=retry, **timeouts, **options)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until it is heard: a client in the middle of a connection may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


def _first(group: ExceptionGroup) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _summary(outcome: Outcome) -> str:
    if not isinstance(outcome, Done):
        return type(outcome).__name__.lower()
    result = outcome.result
    speed = result.timings.tokens_per_second
    why = result.error.code if result.error else result.finish_reason
    tokens = f"{result.usage.prompt_tokens}+{result.usage.completion_tokens} tokens"
    return f"{result.status} ({why}), {tokens}" + (f", {speed:.1f} tokens/s" if speed else "")
