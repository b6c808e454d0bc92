"""How a worker that has nothing to do hears of the next job: a look at each queue that blocks and takes nothing.

BLMOVE from the head of a list to the head of the same list: the job is then taken by the script that knows the
priorities, and a worker that dies here holds nothing. The queues of groups, of which there may be any number, have
one bell for all: a list that holds something while a group waits.
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

    client: for blocked reads.  bell_key: of the groups.  outage: of the process.
    """

    def __init__(self, client: "Redis", queue_keys: Sequence[str], bell_key: str, outage: Outage) -> None:
        self._client, self._bell_key, self._outage = client, bell_key, outage
        self._found = asyncio.Event()
        self._wanted = {key: asyncio.Event() for key in (*queue_keys, bell_key)}

    def side_tasks(self) -> list[SideTask]:
        """One for each queue, and one for the groups."""
        return [SideTask(_name(key), 0, partial(self._look, key), blocks=True) for key in self._wanted]

    async def wait(self, *others: Coroutine[Any, Any, object], bell_alone: bool = False) -> None:
        """Look until a queue holds a job, one of the others is over, or it is time to try and take one anyway.

        bell_alone: what stands in the queues may not be taken now; whoever lets go of a job rings.
        """
        self._found.clear()
        for key, wanted in self._wanted.items():
            if key == self._bell_key or not bell_alone:
                wanted.set()
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

    async def _look(self, queue_key: str) -> None:
        if not self._wanted[queue_key].is_set():
            # A look that failed before the job came does not wait for Redis while the job runs.
            self._outage.leave(_name(queue_key))
            await self._wanted[queue_key].wait()
        elif await self._client.blmove(queue_key, queue_key, PEEK_S, "LEFT", "LEFT"):
            self.wake()


def _name(queue_key: str) -> str:
    return f"watching {queue_key}"
