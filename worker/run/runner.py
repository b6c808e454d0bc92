"""One job: request -> engine -> events -> outcome.

Takes a job from its place in the stream to its end, or to the place where another worker will go on. Knows the
engine by its `Protocol`, what was written by the history, and the stream by the event log. Knows no RQ and no
torch.
"""

import logging
from functools import partial

from redis.asyncio import Redis

from producer.broker.outage import Outage
from producer.contract import EngineFacts, JobError, Keys
from producer.contract.assemble import assemble
from producer.ledger.step import AsyncScripts
from producer.ledger.stream import clear

from ..engine_process.client import EngineClient
from ..job import AbortReason, Done, Order, Outcome, Superseded
from .attempt import Attempt, error_info
from .event_log import EventLog, Fenced, Moved
from .history import History, read_or_discard_history

logger = logging.getLogger(__name__)


class Runner:
    """Runs one job at a time.

    `abort` and `look_for_cancel` may be called at any moment, from the event loop's thread.

    cancel_poll_s: between two looks for a request to cancel the running job.
    live_ttl_s: how long the stream of a job that has not ended stays after its last event. It has to outlast the
    wait for another worker; after the end, the order's own `result_ttl_s` counts.
    outage: of the process, shared by all who wait for Redis.
    appends: what appends to the streams are sent with, where that is not the client.
    """

    def __init__(
        self,
        engine: EngineClient,
        client: "Redis",
        keys: Keys,
        *,
        worker_name: str,
        cancel_poll_s: float,
        live_ttl_s: float,
        outage: Outage | None = None,
        appends: AsyncScripts | None = None,
    ) -> None:
        self._outage = outage or Outage()
        self.engine = engine
        self.client = client
        self._appends = appends or client
        self.keys = keys
        self.worker_name = worker_name
        self.cancel_poll_s = cancel_poll_s
        self.live_ttl_s = live_ttl_s
        self.attempt: Attempt | None = None
        self.engine_facts: EngineFacts | None = None
        """For the streams; known once the engine has started."""

    async def run(self, order: Order) -> Outcome:
        """Take the job to its end, or as far as this worker gets."""
        about = {"job_id": order.job_id}
        # Whoever took the job has seen whether it has a past. Should one come up meanwhile, an append hears of it.
        has_past = order.has_stream
        while True:
            history = await self._history(order.job_id) if has_past else History()
            has_past = True
            if not history.held:
                logger.warning("job %s has been taken over before it began", order.job_id, extra=about)
                return Superseded()
            if history.fault:
                return await self.refuse(order.job_id, order.model, history.fault, result_ttl_s=order.result_ttl_s)
            ended = history.ended
            if ended and history.entries[-1].type == "finished" and not order.begins_anew:
                return Done(ended, is_news=False)
            if ended or (order.begins_anew and history.entries):
                # It failed or was cancelled, or was another job; somebody has had RQ enqueue it again.
                if not await self._clear(order.job_id):
                    return Superseded()
                history = History(last_attempt=history.last_attempt)
            self.attempt = self._attempt(order, history)
            try:
                return await self.attempt.run()
            except Moved:
                logger.info(
                    "job %s: the worker before still wrote to the stream; reading it again",
                    order.job_id,
                    extra=about,
                )
            except Fenced:
                logger.warning("job %s has been taken over by another worker", order.job_id, extra=about)
                return Superseded()
            finally:
                self.attempt = None

    def abort(self, reason: AbortReason) -> None:
        """Stop the running job at its next step. Harmless when there is none."""
        if self.attempt is not None:
            self.attempt.abort(reason)

    def look_for_cancel(self) -> None:
        """Have the running job look at once for a request to cancel it. The caller may mean the job before."""
        if self.attempt is not None:
            self.attempt.look_for_cancel()

    async def _history(self, job_id: str) -> History:
        return await read_or_discard_history(self.client, self.keys, job_id, self.worker_name, self._outage)

    async def _clear(self, job_id: str) -> bool:
        """Begin the job's life anew. The stream keeps its last id, so that nothing older gets in.

        Answers whether the job is ours; if it is not, nothing was changed.
        """
        step = clear(self.keys, self.worker_name, job_id)
        what = f"clearing the stream of job {job_id!r}"
        return await self._outage.wait_out(partial(step.run_async, self.client), what)

    async def refuse(self, job_id: str, model: str, error: JobError, *, result_ttl_s: float) -> Outcome:
        """End a job that cannot be run: `failed`, with its result."""
        while True:
            history = await self._history(job_id)
            if ended := history.ended:
                return Done(ended, is_news=False)
            log = self.log(job_id, history, result_ttl_s)
            result = assemble(
                job_id, model, history.events, status="failed", finish_reason="error", error=error_info(error)
            ).model_copy(update={"attempts": log.attempt, "worker": self.worker_name})
            if history.has_ended:
                # By an event that nobody can read, and that nothing can follow: RQ is told.
                return Done(result, is_news=False)
            log.end(result)
            try:
                await log.run()
            except Moved:
                continue
            except Fenced:
                return Superseded()
            return Done(result)

    def log(self, job_id: str, history: History, result_ttl_s: float, *, as_owner: bool = False) -> EventLog:
        """The job's stream, for this worker's next attempt."""
        return EventLog(
            self._appends,
            self.keys,
            job_id,
            history.entries,
            live_ttl_s=self.live_ttl_s,
            result_ttl_s=result_ttl_s,
            after_attempt=history.last_attempt,
            after=history.after,
            worker=self.worker_name,
            as_owner=as_owner,
            outage=self._outage,
        )

    def _attempt(self, order: Order, history: History) -> Attempt:
        return Attempt(
            order,
            history.events,
            self.log(order.job_id, history, order.result_ttl_s, as_owner=True),
            self.engine,
            worker_name=self.worker_name,
            engine_facts=self.engine_facts,
            cancel_requested=partial(self._cancel_requested, order.job_id),
            cancel_poll_s=self.cancel_poll_s,
        )

    async def _cancel_requested(self, job_id: str) -> bool:
        return bool(await self.client.exists(self.keys.cancel(job_id)))
