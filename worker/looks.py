"""How a worker hears of the next job, or of one for which its own is to make way: a look at each queue that
blocks and takes nothing.

BLMOVE from the head of a list to the head of the same list: the job is then taken by the script that knows the
priorities, and a worker that dies here holds nothing.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from redis.asyncio import Redis

from producer.broker.outage import Outage
from producer.contract.keys import Priority, priorities_above

from .links import PEEK_S
from .side_tasks import SideTask

TAKE_AGAIN_S = 15.0
"""An idle worker tries to take a job though no look has found one: should a look be lost, no job is."""


class Looks:
    """The looks of one worker at its queues.

    client: for blocked reads.  queue_keys: by the priority of the queue.  outage: of the process.
    """

    def __init__(self, client: "Redis", queue_keys: Mapping[Priority, str], outage: Outage) -> None:
        self._client, self._queue_keys, self._outage = client, queue_keys, outage
        self._found = asyncio.Event()
        self._wanted = {priority: asyncio.Event() for priority in queue_keys}

    def side_tasks(self) -> list[SideTask]:
        """One for each queue."""
        return [
            SideTask(_name(key), 0, partial(self._look, priority), blocks=True)
            for priority, key in self._queue_keys.items()
        ]

    async def wait(self, *others: Coroutine[Any, Any, object], above: Priority | None = None) -> None:
        """Look until a queue holds a job, one of the others is over, or it is time to try and take one anyway.

        above: look at the queues of higher priorities than that alone. None: at all.
        """
        self._found.clear()
        for priority in priorities_above(above):
            self._wanted[priority].set()
        waiting = [asyncio.ensure_future(each) for each in (self._found.wait(), *others)]
        try:
            await asyncio.wait(waiting, timeout=TAKE_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            self._want_none()

    def wake(self) -> None:
        """End the wait: there may be a job."""
        self._want_none()
        self._found.set()

    def _want_none(self) -> None:
        for wanted in self._wanted.values():
            wanted.clear()

    async def _look(self, priority: Priority) -> None:
        queue_key, wanted = self._queue_keys[priority], self._wanted[priority]
        if not wanted.is_set():
            # A look that failed before the job came does not wait for Redis while the job runs.
            self._outage.leave(_name(queue_key))
            await wanted.wait()
        elif await self._client.blmove(queue_key, queue_key, PEEK_S, "LEFT", "LEFT") and wanted.is_set():
            self.wake()  # else it was wanted when the look began, and a job has come from elsewhere


def _name(queue_key: str) -> str:
    return f"watching {queue_key}"
