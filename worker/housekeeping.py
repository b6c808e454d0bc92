"""What must be done though no job asks for it: bury the dead, end what waits too long, start what was scheduled.

`presence` notices; here it is carried out, on a task of its own, so that no beat waits for it. The dead are buried
by whoever has noticed; the rest is done by one worker of the model, the first of its ring.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

import redis
from redis.asyncio import Redis

from producer.broker.meaning import meaning
from producer.contract import BrokerUnavailable
from producer.ledger.sweep import SCHEDULED_AT_ONCE, Beat, Member, schedule

from .neighbours import Dead
from .presence import Presence
from .queue.rq_types import Job, now_in_rqs_form
from .queue.rq_worker import GenerationWorker
from .queue.sweeping import Sweeper

logger = logging.getLogger(__name__)

EXPIRE_AT_ONCE = 8
"""Jobs whose ends are written side by side."""
LOOK_S = 0.25
"""Between two looks at the processes of this host."""
LATE_S = 1.0
"""What a process had sent before it ended has come to Redis by then, once that answers."""


class Housekeeping:
    """One worker's share.

    end_late: ends a job that has waited for too long, which is in our list of taken jobs. Of one that cannot be
    read it gets the id.
    """

    def __init__(
        self,
        worker: GenerationWorker,
        presence: Presence,
        client: "Redis",
        end_late: Callable[[Job | str], Awaitable[None]],
    ) -> None:
        self._worker = worker
        self._presence = presence
        self._client = client
        self._end_late = end_late
        self._sweeper = Sweeper(worker)
        self._dead: deque[Dead] = deque()
        self._swept_once: set[Member] = set()
        self._seen: Beat | None = None
        self._due = asyncio.Event()
        self._checked_earlier_at = time.monotonic()

    async def note_dead(self, dead: Dead) -> None:
        """A worker was found dead."""
        self._note(dead)

    async def note_beat(self, seen: Beat) -> None:
        """A beat has seen what there is to be done."""
        self._seen = seen
        if seen.is_first and (seen.has_late or seen.has_scheduled or self._earlier_are_due):
            self._due.set()

    def _note(self, dead: Dead) -> None:
        if dead not in self._dead:
            self._dead.append(dead)
        self._due.set()

    @property
    def is_ours(self) -> bool:
        """Whether this worker keeps house for all of the model."""
        return self._seen is not None and self._seen.is_first

    async def step(self) -> None:
        """Wait until there is something to do, and do it.  Raises errors of Redis; nothing is lost by them."""
        await self._look_here()
        while not self._due.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._due.wait()
            await self._look_here()
        self._due.clear()
        try:
            await self._bury()
            if self._seen is not None and self._seen.is_first:
                await self._keep_house(self._seen)
        except BaseException:
            self._due.set()
            raise

    async def _look_here(self) -> None:
        """Whatever Redis does: who died while it was away is buried once it is back."""
        for dead in self._presence.exited():
            await self.note_dead(dead)

    @property
    def _earlier_are_due(self) -> bool:
        ttl_s = self._worker.settings.heartbeat_ttl_s
        return self._presence.trusts_beats and time.monotonic() - self._checked_earlier_at > ttl_s

    async def _bury(self) -> None:
        while self._dead:
            try:
                await asyncio.to_thread(self._sweeper.sweep, self._dead[0])
            except Exception as error:
                if isinstance(error, redis.RedisError) and meaning(error) != "broken":
                    raise
                # Something else stands in place of what is swept. It is tried again once this one is found again.
                logger.exception("what worker %.80r has left cannot be swept", self._dead[0].member.worker)
            else:
                self._follow_up(self._dead[0])
            self._dead.popleft()
        await asyncio.to_thread(self._sweeper.settle)

    def _follow_up(self, dead: Dead) -> None:
        """After a sweep. Of a process that has just ended there is a second one: a beat or a take that it had
        sent may have come to Redis after the first.
        """
        if dead.member in self._swept_once:
            self._swept_once.discard(dead.member)
            return
        self._presence.beat_soon()  # whoever comes after the dead in the ring may be dead, too
        if dead.sign == "exited":
            self._swept_once.add(dead.member)
            asyncio.get_running_loop().call_later(LATE_S, self._note, dead)

    async def _keep_house(self, seen: Beat) -> None:
        if seen.has_scheduled:
            await self._start_scheduled()
        if seen.has_late:
            await self._expire()
        if self._earlier_are_due:
            self._checked_earlier_at = time.monotonic()
            for dead in await asyncio.to_thread(self._sweeper.dead_of_earlier_versions):
                await asyncio.to_thread(self._sweeper.sweep, dead)

    async def _start_scheduled(self) -> None:
        while not self._dead:  # they come first: `_due` is set for them, and the next step goes on here
            step = schedule(self._worker.keys, self._worker.settings.model_name, now=now_in_rqs_form())
            done = await step.run_async(self._client)
            if done.limited:
                await asyncio.to_thread(self._worker.keep_rate_limits)
            if done.due < SCHEDULED_AT_ONCE:
                return

    async def _expire(self) -> None:
        while not self._dead and (late := await asyncio.to_thread(self._worker.take_late)):
            gate = asyncio.Semaphore(EXPIRE_AT_ONCE)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for job in late:
                        tasks.create_task(self._end_one(gate, job))
            except* BrokerUnavailable as several:
                raise several.exceptions[0] from several

    async def _end_one(self, gate: asyncio.Semaphore, job: Job | str) -> None:
        """One that cannot be ended so must not hold up the others: it is taken as the next job, from our list."""
        async with gate:
            try:
                await self._end_late(job)
            except BrokerUnavailable:
                raise
            except Exception:
                job_id = job if isinstance(job, str) else job.id
                logger.exception(
                    "job %.80r has waited for too long, and could not be ended yet",
                    job_id,
                    extra={"job_id": job_id[:80]},
                )
                self._worker.in_hand.discard(job_id)
