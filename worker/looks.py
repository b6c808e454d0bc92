"""How a worker hears of the next job, or of one for which its own is to make way: a look at each queue that
blocks and takes nothing.

BLMOVE from the head of a list to the head of the same list: the job is then taken by the script that knows the
priorities, and a worker that dies here holds nothing. The queues of groups, of which there may be any number, have
one bell for all: a list that holds something while a group waits.
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

BELLS: tuple[Priority | None, ...] = (None, "low", "normal")
"""Above which they ring."""
TAKE_AGAIN_S = 15.0
"""An idle worker tries to take a job though no look has found one: should a look be lost, no job is."""


class Looks:
    """The looks of one worker at its queues.

    client: for blocked reads.  queue_keys: by the priority of the queue.
    bell_keys: of the groups, by the priority above which they ring; None: any.  outage: of the process.
    """

    def __init__(
        self,
        client: "Redis",
        queue_keys: Mapping[Priority, str],
        bell_keys: Mapping[Priority | None, str],
        outage: Outage,
    ) -> None:
        self._client, self._queue_keys, self._bell_keys, self._outage = client, queue_keys, bell_keys, outage
        self._found = asyncio.Event()
        self._wanted = {key: asyncio.Event() for key in (*queue_keys.values(), *bell_keys.values())}

    def side_tasks(self) -> list[SideTask]:
        """One for each queue, and one for each bell of the groups."""
        return [SideTask(_name(key), 0, partial(self._look, key), blocks=True) for key in self._wanted]

    async def wait(
        self, *others: Coroutine[Any, Any, object], above: Priority | None = None, bell_alone: bool = False
    ) -> None:
        """Look until a queue holds a job, one of the others is over, or it is time to try and take one anyway.

        above: look for jobs of higher priorities than that alone. None: for any.
        bell_alone: what stands in the queues may not be taken now; whoever lets go of a job rings.
        """
        self._found.clear()
        queues = [] if bell_alone else [self._queue_keys[priority] for priority in priorities_above(above)]
        for key in (*queues, self._bell_keys[above]):
            self._wanted[key].set()
        waiting = [asyncio.ensure_future(each) for each in (self._found.wait(), *others)]
        try:
            await asyncio.wait(waiting, timeout=TAKE_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            self._stop()

    def wake(self) -> None:
        """End the wait: there may be a job."""
        self._stop()
        self._found.set()

    def _stop(self) -> None:
        for wanted in self._wanted.values():
            wanted.clear()

    async def _look(self, key: str) -> None:
        wanted = self._wanted[key]
        if not wanted.is_set():
            # A look that failed before the job came does not wait for Redis while the job runs.
            self._outage.leave(_name(key))
            await wanted.wait()
        elif await self._client.blmove(key, key, PEEK_S, "LEFT", "LEFT") and wanted.is_set():
            self.wake()  # else it was wanted when the look began, and a job has come from elsewhere


def _name(queue_key: str) -> str:
    return f"watching {queue_key}"
