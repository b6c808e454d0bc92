"""The worker as an asyncio program: one job after another, with its side tasks beside them.

    take -> read the order -> run, while RQ hears of the start -> take the next, while RQ hears of the end

The loop never waits for torch, which lives in the engine process. RQ is synchronous and is called in threads,
each call bounded by the socket's time-out. When it ends, and by when, is `leaving`'s to say.
"""

import asyncio
import contextlib
import logging
import time
from functools import partial

import redis

from producer.broker.outage import Outage
from producer.contract import BrokerUnavailable, EngineError, JobError, Keys
from producer.ledger.take import Taken

from .engine_keeping import EngineKeeper
from .engine_process.process import EngineProcess
from .errors import ConfigError
from .goodbye import leave
from .intake import check_deaths, check_record, read_order
from .job import Done, Order, Outcome, PutBack
from .leaving import Leaving, cancel
from .links import Links
from .lives import Lives
from .looks import BELLS, Looks
from .metrics import Metrics
from .preemption import Preemption
from .presence import Presence
from .queue.rq_types import Execution, Job, WorkerStatus
from .queue.rq_worker import GenerationWorker
from .registering import Registrar
from .run.runner import Runner
from .run.turn import Turn
from .settings import WorkerSettings
from .side_tasks import BROKEN_RETRY_S, run_beside
from .upkeep import Upkeep

logger = logging.getLogger(__name__)

SUSPENSION_POLL_S = 1.0
IDLE_MOMENT_S = 1.0
"""A worker that has no job leaves within this time, whatever Redis does."""
KILLED_ENGINE_S = 0.2


class Service:
    """One worker process at work: registered with Redis, and whole. `starting.start` makes one."""

    def __init__(
        self,
        settings: WorkerSettings,
        engine: EngineProcess,
        worker: GenerationWorker,
        *,
        links: Links,
        lives: Lives,
        outage: Outage,
        metrics: Metrics,
        leaving: Leaving,
    ) -> None:
        """worker: registered already, and begun in lives; outage: the state of Redis, for all who wait for it."""
        self.settings = settings
        self.engine = engine
        self.worker = worker
        self.metrics = metrics
        self.runner = Runner(
            engine,
            links.events,
            Keys(settings.prefix),
            worker_name=worker.name,
            cancel_poll_s=settings.cancel_poll_s,
            live_ttl_s=settings.max_result_ttl_s,
            outage=outage,
            appends=links.appends,
        )
        self._links = links
        self._outage = outage
        self._leaving = leaving
        self._registrar = Registrar(settings, worker, self.runner, metrics, outage)
        self.presence = Presence(
            links.presence,
            Keys(settings.prefix),
            settings.model_name,
            worker.name,
            worker.record,
            lives=lives,
            ttl_s=settings.heartbeat_ttl_s,
            keep_s=settings.keep_held_s,
            beat_interval_s=settings.heartbeat_interval_s,
        )
        links.on_presence.listener = self.presence.connected
        self.upkeep = Upkeep(settings, worker, self.runner, self._registrar, presence=self.presence, links=links)
        self._keeper = EngineKeeper(
            engine, worker, self.runner, presence=self.presence, metrics=metrics, outage=outage
        )
        self._rq = self._registrar.call
        bells = {each: worker.keys.bell(settings.model_name, each) for each in BELLS}
        self._looks = Looks(links.looks, worker.keys_of_queues(), bells, outage)
        self._preemption = Preemption(
            settings,
            worker,
            self.runner,
            self._registrar,
            presence=self.presence,
            looks=self._looks,
            leaving=leaving,
            metrics=metrics,
            run_before=self._run_before,
        )
        self._in_hand = 0
        """Jobs: the one that runs, and those that are parked."""
        self._take_fault = ""  # that stands in the log already: it is the same at each try
        self._loop: asyncio.AbstractEventLoop | None = None
        leaving.on_grace_over = partial(self.runner.abort, "shutdown")

    async def run(self) -> None:
        """Work until a signal says otherwise, and leave in time, whatever Redis does.

        Raises BrokerUnavailable when Redis cannot serve us any more, ConfigError when the engine cannot load.
        """
        self._loop = asyncio.get_running_loop()
        side_tasks = [*self.upkeep.side_tasks(), *self._looks.side_tasks()]
        work = asyncio.create_task(run_beside(self._serve_all(), side_tasks, self._outage), name="work")
        overdue = asyncio.create_task(self._overdue(), name="overdue")
        try:
            await asyncio.wait((work, overdue), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._cut_short(work)
        finally:
            overdue.cancel()
            await cancel((work,))
            self._registrar.abandon()
            is_orderly = not (work.cancelled() or self._is_busy or self._outage.is_on)
            await leave(self.engine, self.worker, self.presence, self.metrics, self._links, is_orderly=is_orderly)
        if not work.cancelled():
            work.result()

    # -- one job after another

    async def _serve_all(self) -> None:
        await self._leaving.unless_asked(self._keeper.start())
        while not self._leaving.asked.is_set():
            if self.engine.died:
                await self._leaving.unless_asked(self._keeper.start())
            else:
                await self._serve_next()
        await self._registrar.all_registered()

    async def _serve_next(self) -> None:
        """Take a job and see it through, or wait until there is one."""
        taken_at = time.monotonic()
        try:
            taken = await self._rq(self.worker.take)
        except redis.RedisError as error:
            if str(error) != self._take_fault:
                logger.exception("no job can be taken: something else stands in place of a queue or of our list")
            self._take_fault = str(error)
            await self._leaving.pause(BROKEN_RETRY_S)
            return
        self._take_fault = ""
        if taken == "suspended":
            await self._rq(self.worker.note_state, WorkerStatus.SUSPENDED)
            await self._leaving.pause(SUSPENSION_POLL_S)
        elif taken is None or taken == "limited":
            await self._wait_for_work(bell_alone=taken == "limited")
        else:
            await self._see_through(taken, taken_at)

    async def _see_through(self, taken: Taken, taken_at: float) -> None:
        self._in_hand += 1
        self.worker.pace.begin(taken_at)
        if self._preemption.makes_way(taken):
            await self._preemption.see_through(taken, self._serve_or_give_up)
        else:
            await self._serve_or_give_up(taken, Turn())
        self.worker.pace.end()
        self._in_hand -= 1  # and not if the worker ends over it

    async def _run_before(self, taken: Taken) -> None:
        """Run a job while another one is parked, which is to find an engine when it goes on."""
        await self._see_through(taken, time.monotonic())
        if self.engine.died:
            await self._leaving.unless_asked(self._keeper.start())

    async def _serve_or_give_up(self, taken: Taken, turn: Turn) -> None:
        try:
            await self._serve(taken, turn)
        except (BrokerUnavailable, ConfigError):
            raise
        except Exception:
            # Anybody may write what stands under a job's names: it must not end one worker after the other.
            logger.exception(
                "job %.80r is given up: what stands under its names cannot be used",
                taken.job_id,
                extra={"job_id": taken.job_id[:80]},
            )
            await self._registrar.give_up(taken.job_id)

    async def _serve(self, taken: Taken, turn: Turn) -> None:
        taken_at = time.monotonic()
        try:
            check_record(taken)
            job = self.worker.read(taken)
        except JobError as error:
            await self._registrar.refuse(taken.job_id, error)
            await self._rq(self.worker.fail_unreadable, taken.job_id)
            await self._rq(self.worker.put_down, taken.job_id)
            return
        try:
            check_deaths(taken.raw, self.settings.max_attempts)
            order = read_order(job, taken, self.settings, tuple(self.worker.queue_names()))
        except JobError as error:
            await self._registrar.fail_unrun(job, error)
            await self._rq(self.worker.put_down, job.id)
            return
        await self._run(job, order, turn, taken_at)

    async def _run(self, job: Job, order: Order, turn: Turn, taken_at: float) -> None:
        # RQ hears of the start while the engine reads the prompt: neither waits for the other.
        beginning = asyncio.create_task(self._begin(job, order), name=f"begin {job.id}")
        self.metrics.busy.set(1)
        try:
            outcome = await self._run_or_fail(order, turn)
            execution = await beginning
        finally:
            beginning.cancel()
            self.upkeep.running.pop(job.id, None)
            self.metrics.busy.set(self._in_hand > 1)
        took_s = time.monotonic() - taken_at
        if isinstance(outcome, Done) and outcome.is_news:
            self.metrics.observe(outcome.result, took_s)
        await self._registrar.soon(job, execution, outcome, took_s)

    async def _run_or_fail(self, order: Order, turn: Turn) -> Outcome:
        """What passes of Redis' troubles is waited out inside: what is raised is the fault of the job's keys."""
        if self.engine.died:  # before the job came: others may have it while this one gets another engine
            return PutBack("the engine had died before it began")
        try:
            return await self.runner.run(order, turn)
        except redis.RedisError as error:
            logger.exception(
                "job %s fails: Redis refuses what stands under its names",
                order.job_id,
                extra={"job_id": order.job_id},
            )
            failure = EngineError(f"Redis refused what the job needs ({error}): submit it under another id")
            return await self.runner.refuse(order.job_id, order.model, failure, result_ttl_s=order.result_ttl_s)

    async def _begin(self, job: Job, order: Order) -> Execution:
        execution = await self._rq(self.worker.begin, job, order.request.digest())
        self.upkeep.running[job.id] = job
        return execution

    async def _wait_for_work(self, *, bell_alone: bool) -> None:
        await self._registrar.all_registered()
        await self._rq(self.worker.note_state, WorkerStatus.IDLE)
        if not self._leaving.asked.is_set():  # meanwhile: a look that has just begun is slow to be cancelled
            others = self._leaving.asked.wait(), self.engine.wait_until_dead()
            await self._looks.wait(*others, bell_alone=bell_alone)

    def on_stop_command(self) -> None:
        """RQ's stop command has come; called on the thread that handles it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.runner.look_for_cancel)

    # -- the end

    async def _overdue(self) -> None:
        """Until the worker has to leave as it stands. One that has nothing in hand need not wait for anything."""
        await self._leaving.asked.wait()
        if not self._is_busy:
            moment_s = 0 if self._outage.is_on else IDLE_MOMENT_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(moment_s):
                    await self._leaving.overdue.wait()
        if self._is_busy:  # a job may have been on its way
            await self._leaving.overdue.wait()

    @property
    def _is_busy(self) -> bool:
        return self._in_hand > 0 or bool(self._registrar.unregistered)

    async def _cut_short(self, work: asyncio.Task[None]) -> None:
        """End the work as it stands. What it holds stays in the worker's list, where another worker finds it."""
        if self._is_busy:
            logger.warning("the time is over: what this worker holds is left to the others")
        self.engine.kill()
        # Where it was the engine that kept the job, Redis may take it back even now.
        await asyncio.wait((work,), timeout=KILLED_ENGINE_S)
        await cancel((work,))
