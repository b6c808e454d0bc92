"""RQ hears of a job's start and end. The stream and the result say so already, and say it first.

RQ is synchronous and is called in threads, again and again until Redis has taken it: what a job came to must be
written down. Until it is, the job stays in the worker's list of taken jobs, where a sweep would find it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import redis

from producer.broker.meaning import is_forbidden_key, meaning
from producer.broker.outage import Outage
from producer.contract import BrokerUnavailable, EngineError
from producer.contract.errors import JobError

from .errors import BookkeepingFailed
from .intake import MIN_RESULT_TTL_S, result_ttl_s
from .job import Done, Outcome, PutBack, Retry, Superseded
from .job_line import job_line
from .metrics import Metrics
from .queue.bookkeeping import note_end
from .queue.rq_types import Execution, Job
from .queue.rq_worker import GenerationWorker
from .run.runner import Runner
from .settings import WorkerSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Registrar:
    """Tells RQ on behalf of one worker; of one job at a time, because RQ takes notes on the worker meanwhile."""

    def __init__(
        self, settings: WorkerSettings, worker: GenerationWorker, runner: Runner, metrics: Metrics, outage: Outage
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._runner = runner
        self._metrics = metrics
        self._outage = outage
        self._booking = asyncio.Lock()
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def call(self, call: Callable[..., T], *args: object) -> T:
        """Call RQ in a thread, and again until Redis has answered.

        Raises a ResponseError where keys are at fault, and BrokerUnavailable where the server is.
        """
        return await self._outage.wait_out(lambda: asyncio.to_thread(call, *args), "RQ's bookkeeping")

    @property
    def unregistered(self) -> tuple[str, ...]:
        """Ids of the jobs that have ended, and of whose end RQ has yet to hear."""
        return tuple(self._under_way)

    # -- ends

    async def soon(self, job: Job, execution: Execution, outcome: Outcome, took_s: float) -> None:
        """Let RQ know how the job ended. After a good end the next job need not wait for that.

        One at a time, so that a slow Redis cannot pile them up.  took_s: for the log.
        """
        await self.all_registered()
        task = asyncio.create_task(self._register(job, execution, outcome, took_s), name=f"register {job.id}")
        self._under_way[job.id] = task
        if not (isinstance(outcome, Done) and outcome.result.status == "finished"):
            await self.all_registered()

    async def all_registered(self) -> None:
        """Wait until RQ knows of every end so far."""
        for job_id, task in list(self._under_way.items()):
            await task
            self._under_way.pop(job_id, None)  # jobs end side by side: one that was parked, and one that ran

    def abandon(self) -> None:
        """Leave what RQ does not know yet to whoever sweeps this worker's list."""
        for task in self._under_way.values():
            task.cancel()

    async def _register(self, job: Job, execution: Execution, outcome: Outcome, took_s: float) -> None:
        try:
            if await self.call(self._worker.has_lost, job.id):
                outcome = Superseded()
            await self._tell(job, execution, outcome)
            await self.call(self._worker.put_down, job.id)
        except redis.RedisError:
            logger.exception("job %s has ended, and RQ cannot be told", job.id, extra={"job_id": job.id})
            with contextlib.suppress(redis.RedisError):
                await self.call(self._worker.put_down, job.id)  # or it would be taken again
        line, fields = job_line(job.id, self._settings.model_name, outcome, took_s)
        logger.info(line, extra=fields)

    async def _tell(self, job: Job, execution: Execution, outcome: Outcome) -> None:
        worker = self._worker
        match outcome:
            case Done(result) if result.status == "finished":
                note_end(job, result)
                await self.book(worker.succeed, job, execution, result)
            case Done(result) if result.status == "cancelled":
                note_end(job, result)
                await self.book(worker.stopped, job, execution)
            case Done(result):
                note_end(job, result)
                await self.book(worker.fail, job, execution, result.failure)
            case Retry(error):
                await self.book(worker.fail, job, execution, error)
            case PutBack(_, engine_died):
                self._metrics.requeued.inc()
                put_back = worker.put_back_after_death if engine_died else worker.put_back
                if not await self.book(put_back, job, execution):
                    await self._end_in_place(job)
            case Superseded():
                await self.call(worker.forget, execution)

    async def _end_in_place(self, job: Job) -> None:
        """End a job that Redis does not let back into its queue: put down, it would be in no list and have no end.

        One that is back all the same, and of which RQ alone could not be told, is the next worker's.
        """
        if await self.call(self._worker.has_lost, job.id):
            return
        why = f"the job cannot go back into its queue, as rq:queue:{job.origin} is no list: delete that key"
        await self.fail_unrun(job, EngineError(f"{why}, and submit the job again"))

    async def refuse(self, job_id: str, error: JobError, *, ttl_s: float = MIN_RESULT_TTL_S) -> None:
        """End a job that is not run, in its stream.  ttl_s: how long its result is to stay."""
        logger.info(
            "job %.80s of %s is refused: %s",
            job_id,
            self._settings.model_name,
            error.code,
            extra={"job_id": job_id[:80], "model": self._settings.model_name, "code": error.code},
        )
        outcome = await self._runner.refuse(job_id, self._settings.model_name, error, result_ttl_s=ttl_s)
        if isinstance(outcome, Done) and outcome.is_news:
            self._metrics.observe(outcome.result, None)

    async def fail_unrun(self, job: Job, error: JobError) -> None:
        """End a job that is not run, in its stream and in RQ's records."""
        await self.refuse(job.id, error, ttl_s=result_ttl_s(job, self._settings))
        await self.book(self._worker.refuse, job, error)

    async def give_up(self, job_id: str) -> None:
        """End a job as far as its keys let us, and put it down."""
        failure = EngineError("the worker stumbled over what stands under the job's names; see its log")
        for last_word in (
            partial(self.refuse, job_id, failure),
            partial(self.call, self._worker.fail_unreadable, job_id),
            partial(self.call, self._worker.forget_runs, job_id),
            partial(self.call, self._worker.put_down, job_id),
        ):
            try:
                await last_word()
            except BrokerUnavailable:
                raise
            except Exception:
                logger.debug("job %.80r: %s is not possible", job_id, last_word, exc_info=True)

    async def book(self, call: Callable[..., None], job: Job, *args: object) -> bool:
        """Have RQ note what became of a job.  Returns whether it has.

        A job whose keys or fields RQ stumbles over, which anybody can write, is left at that: it must not keep the
        worker from the next one.
        """
        try:
            async with self._booking:
                await self.call(_giving_up_on_a_broken_job(call), job, *args)
        except BrokerUnavailable:
            raise
        except Exception:
            logger.exception("job %s: RQ could not note what became of it", job.id, extra={"job_id": job.id})
            await self.call(self._worker.let_expire, job)
            return False
        return True


def _giving_up_on_a_broken_job(call: Callable[..., None]) -> Callable[..., None]:
    def attempt(*args: object) -> None:
        """Raises BookkeepingFailed."""
        try:
            call(*args)
        except redis.RedisError as error:
            # A key that this user may not touch is one that the job has named: its group's, say, or a dependent's.
            if meaning(error) == "broken" or is_forbidden_key(error):
                raise BookkeepingFailed(str(error)) from error
            raise

    return attempt
