"""Who waits for which job at this gateway, and what becomes of jobs for which nobody does.

While a client waits for a job that depends on it, the gateway says so on Redis every so often; see
`ledger.wanting`. Once the client has gone nobody says it any more. After the grace the gateway that it left
looks whether it has come back, here or at another gateway, and cancels the job if not. Where that gateway was
killed the worker finds out by itself: so what is kept here may be lost.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import redis

from ..contract import GenqueueError, NoSuchJob
from ..ending import end
from .calls import Call
from .queueing import GatewayProducer

logger = logging.getLogger(__name__)

TOLD_PER_LEASE = 3
"""So many times within a lease a job is said to be wanted: one may fail."""
LOOKS = 3
"""So many times the gateway that a client has left looks: what it said of it last may have come late."""
AT_ONCE = 1000
"""Jobs of one script."""


class Presence:
    """The clients of one gateway.  grace_s: how long a job goes on without its client; inf: to its end."""

    def __init__(self, producer: GatewayProducer, grace_s: float) -> None:
        self._producer = producer
        self._grace_s = grace_s
        self._waited_for: Counter[str] = Counter()
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def lease_s(self) -> float:
        """Half the grace: a worker that finds it over gives as much again."""
        return self._grace_s / 2

    @property
    def waiting(self) -> int:
        """Jobs that somebody waits for here."""
        return len(self._waited_for)

    @property
    def leaving(self) -> int:
        """Calls whose client has gone, and whose grace is not over."""
        return len(self._leaving)

    @asynccontextmanager
    async def of(self, call: Call) -> AsyncIterator[None]:
        """Somebody waits for the call within. To be left by an exception, or cancelled, where it has not ended."""
        if not call.is_leased:
            yield
            return
        await self._producer.want(call.job_ids)
        self._waited_for.update(call.job_ids)
        has_ended = False
        try:
            yield
            has_ended = True
        finally:
            for job_id in call.job_ids:
                self._waited_for[job_id] -= 1
                if not self._waited_for[job_id]:
                    del self._waited_for[job_id]
            if not has_ended:
                self._start(call)

    async def keep_telling(self) -> None:
        """Say for ever that what is waited for here is wanted."""
        while True:
            await asyncio.sleep(self.lease_s / TOLD_PER_LEASE)
            job_ids = list(self._waited_for)
            for at in range(0, len(job_ids), AT_ONCE):
                with suppress(GenqueueError, redis.RedisError):  # its streams know better what to do about it
                    await self._producer.want(job_ids[at : at + AT_ONCE])

    async def aclose(self) -> None:
        """Leave the jobs of those who have gone to their workers."""
        await end(self._leaving)

    def _start(self, call: Call) -> None:
        task = asyncio.create_task(self._after_grace(call), name=f"genqueue-grace-{call.id}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _after_grace(self, call: Call) -> None:
        await asyncio.sleep(self._grace_s)
        left = set(call.job_ids)
        for _ in range(LOOKS):
            left = {job_id for job_id in left - self._waited_for.keys() if not await self._is_settled(job_id)}
            if not left:
                return
            await asyncio.sleep(self.lease_s)

    async def _is_settled(self, job_id: str) -> bool:
        """Cancel the job, unless somebody waits for it elsewhere. Whether there is nothing left to do."""
        try:
            if not await self._producer.is_unwanted(job_id):
                return False
            await self._producer.cancel(job_id)
        except NoSuchJob:
            return True
        except GenqueueError as error:
            logger.warning("job %s, for which nobody waits, is left to its worker: %s", job_id, error)
        return True
