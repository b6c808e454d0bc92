"""How a worker that has nothing to do hears of the next job: a look at each queue that blocks and takes nothing.

BLMOVE from the head of a list to the head of the same list: the job is then taken by the script that knows the
priorities, and a worker that dies here holds nothing.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis

from producer.broker.outage import Outage

from .links import PEEK_S
from .side_tasks import SideTask

TAKE_AGAIN_S = 15.0
"""An idle worker tries to take a job though no look has found one: should a look be lost, no job is."""


class Looks:
    """The looks of one worker at its queues.

    client: for blocked reads.  outage: of the process.
    """

    def __init__(self, client: "Redis", queue_keys: Sequence[str], outage: Outage) -> None:
        self._client, self._queue_keys, self._outage = client, queue_keys, outage
        self._found = asyncio.Event()
        self._wanted = asyncio.Event()

    def side_tasks(self) -> list[SideTask]:
        """One for each queue."""
        return [SideTask(_name(key), 0, partial(self._look, key), blocks=True) for key in self._queue_keys]

    async def wait(self, *others: Coroutine[Any, Any, object]) -> None:
        """Look until a queue holds a job, one of the others is over, or it is time to try and take one anyway."""
        self._found.clear()
        self._wanted.set()
        waiting = [asyncio.ensure_future(each) for each in (self._found.wait(), *others)]
        try:
            await asyncio.wait(waiting, timeout=TAKE_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            self._wanted.clear()

    def wake(self) -> None:
        """End the wait: there may be a job."""
        self._wanted.clear()
        self._found.set()

    async def _look(self, queue_key: str) -> None:
        if not self._wanted.is_set():
            # A look that failed before the job came does not wait for Redis while the job runs.
            self._outage.leave(_name(queue_key))
            await self._wanted.wait()
        elif await self._client.blmove(queue_key, queue_key, PEEK_S, "LEFT", "LEFT"):
            self.wake()


def _name(queue_key: str) -> str:
    return f"watching {queue_key}"
