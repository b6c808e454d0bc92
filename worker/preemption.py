"""When a running job makes way for one of a higher priority, and what becomes of it meanwhile.

    a job runs ─▶ a look finds a higher one ─▶ it is taken ─▶ the running one is parked ─▶ the higher one runs
         ▲                                                                                        │
         └──────────── it goes on, before any other of its queue ◀── no higher one waits ◀────────┘

A job that is parked stays in the worker's list of taken jobs, so that no other worker touches it unless this one
dies. Jobs are parked on top of each other, one of each priority. Nobody is put off without end: a job makes way
`max_preemptions` times, and waits for `max_parked_s` in all; then it runs to its end. That it is parked stands in
Redis, so that the death of its worker does not count against it; nobody waits for that.

Of several workers none makes way where another is idle: that one's look wakes at the same time, and has a moment's
start. Then the one whose job holds the fewest tokens is next: it is the cheapest to park. Whoever comes too late
finds the queue empty, and goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import redis

from producer.contract import BrokerUnavailable
from producer.contract.keys import Priority
from producer.ledger.take import Taken

from .leaving import Leaving, cancel
from .looks import Looks
from .metrics import Metrics
from .presence import Presence
from .queue.rq_worker import GenerationWorker
from .registering import Registrar
from .run.runner import Runner
from .run.turn import Turn
from .settings import WorkerSettings
from .side_tasks import BROKEN_RETRY_S

logger = logging.getLogger(__name__)

SUSPENDED_S = 1.0
"""Until a worker that may take no job looks again."""
IDLE_START_S = 0.005
"""That an idle worker of the model has on all that are busy."""
CHEAP_START_S = 0.008
"""That a job without a token has on one with very many."""
MANY_TOKENS = 4096

_MAKE_WAY: dict[str, frozenset[Priority | None]] = {
    "off": frozenset(),
    "low": frozenset({"low"}),
    "all": frozenset({"low", "normal"}),
}
"""Which jobs do, by the setting."""


class Preemption:
    """One worker's.  run_before: runs a job to its end while another one is parked."""

    def __init__(
        self,
        settings: WorkerSettings,
        worker: GenerationWorker,
        runner: Runner,
        registrar: Registrar,
        *,
        presence: Presence,
        looks: Looks,
        leaving: Leaving,
        metrics: Metrics,
        run_before: Callable[[Taken], Awaitable[None]],
    ) -> None:
        self._settings, self._worker, self._runner, self._registrar = settings, worker, runner, registrar
        self._presence, self._looks, self._leaving = presence, looks, leaving
        self._metrics, self._run_before = metrics, run_before

    def makes_way(self, taken: Taken) -> bool:
        """Whether the job is one that does, for one of a higher priority."""
        return self._priority(taken) in _MAKE_WAY[self._settings.preempt]

    async def see_through(self, taken: Taken, serve: Callable[[Taken, Turn], Coroutine[Any, Any, None]]) -> None:
        """Serve a job that makes way to its end, and those of higher priorities that come meanwhile before it."""
        above, turn, marks = self._above(taken), Turn(), _Marks(self._runner, taken.job_id)
        work = asyncio.create_task(serve(taken, turn), name=f"serve {taken.job_id:.80}")
        try:
            while higher := await self._next_higher(above, turn, work):
                await turn.take_away()
                marks.set(is_parked=True)
                self._metrics.parked.inc()
                await self._run_higher(taken.job_id, above, turn, work, higher)
                marks.set(is_parked=False)
            await work
        finally:
            await cancel((work, *marks.pending))

    # -- which makes way, and when

    def _priority(self, taken: Taken) -> Priority | None:
        return self._worker.keys.priority_of_queue(taken.raw.get(b"origin", b"").decode(errors="replace"))

    def _above(self, taken: Taken) -> Priority:
        priority = self._priority(taken)
        assert priority is not None, "the job is of no queue of ours"
        return priority

    def _may_make_way(self, turn: Turn, work: asyncio.Task[None]) -> bool:
        return turn.times < self._settings.max_preemptions and self._may_wait(turn, work)

    def _may_wait(self, turn: Turn, work: asyncio.Task[None]) -> bool:
        is_put_off = turn.away_s >= self._settings.max_parked_s
        return not (is_put_off or work.done() or self._leaving.asked.is_set())

    async def _next_higher(self, above: Priority, turn: Turn, work: asyncio.Task[None]) -> Taken | None:
        """Wait for a job of a higher priority, and take it. None: the job has ended before one came."""
        while self._may_make_way(turn, work):
            await self._looks.wait(_end(work), self._leaving.asked.wait(), above=above)
            await _end(work, within_s=self._start_of_others_s())
            if self._may_make_way(turn, work) and (taken := await self._take(above, work)):
                return taken
        await _end(work)
        return None

    def _start_of_others_s(self) -> float:
        attempt = self._runner.attempt
        return start_of_others_s(self._presence.members - 1, attempt.held_tokens if attempt else 0)

    async def _take(self, above: Priority, work: asyncio.Task[None]) -> Taken | None:
        try:
            taken = await self._registrar.call(self._worker.take, above)
        except redis.RedisError as error:
            logger.debug("no job of a higher priority can be taken: %s", error)  # between two jobs, it is told
            await _end(work, within_s=BROKEN_RETRY_S)
            return None
        if isinstance(taken, str):
            await _end(work, within_s=SUSPENDED_S)
            return None
        return taken

    # -- while it waits

    async def _run_higher(
        self, job_id: str, above: Priority, turn: Turn, work: asyncio.Task[None], higher: Taken | None
    ) -> None:
        beside = [asyncio.create_task(self._put_back_when_asked(job_id), name=f"put back {job_id:.80}")]
        try:
            while higher is not None:
                logger.info("job %s waits for %s", job_id, higher.job_id, extra={"job_id": job_id})
                await self._run_before(higher)
                higher = await self._take(above, work) if self._may_wait(turn, work) else None
        finally:
            await cancel(beside)
            turn.give_back()

    async def _put_back_when_asked(self, job_id: str) -> None:
        """A worker that is to leave has no time for what it does not run: others have."""
        await self._leaving.asked.wait()
        if (attempt := self._runner.attempts.get(job_id)) is not None:
            attempt.abort("shutdown")


class _Marks:
    """What Redis is told of one job: that it is parked, that it runs, in that order, as soon as Redis hears it."""

    def __init__(self, runner: Runner, job_id: str) -> None:
        self._runner, self._job_id = runner, job_id
        self.pending: list[asyncio.Task[None]] = []

    def set(self, *, is_parked: bool) -> None:
        """Tell it, once what was to be told before has been."""
        self.pending = [task for task in self.pending if not task.done()]
        telling = self._tell(is_parked, [*self.pending])
        self.pending.append(asyncio.create_task(telling, name=f"mark {self._job_id:.80}"))

    async def _tell(self, is_parked: bool, before: list[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        try:
            await self._runner.note_parked(self._job_id, is_parked=is_parked)
        except (redis.RedisError, BrokerUnavailable) as error:
            # Whoever has more to say to Redis, or to this job's keys, meets the same.
            logger.debug("job %s: it cannot be marked as parked: %s", self._job_id, error)


def start_of_others_s(others: int, held_tokens: int) -> float:
    """How long to leave a job to the model's other workers, before one of so many tokens makes way for it."""
    if others <= 0:
        return 0.0
    return IDLE_START_S + CHEAP_START_S * held_tokens / (held_tokens + MANY_TOKENS)


async def _end(work: asyncio.Task[None], *, within_s: float | None = None) -> None:
    """Until it has ended, at most so long; what it raises is not raised here."""
    await asyncio.wait((work,), timeout=within_s)
