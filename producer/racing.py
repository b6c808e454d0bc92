"""Carries a `race` on: the one shell for a thread, the other for a task, as `links` has them for one operation."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from .contract import GenerationResult
from .ends import ended_already
from .handles import AsyncJobHandle, JobHandle
from .operations import Operation
from .race import Member, Race

ASKED_AT_ONCE = 200
"""Jobs whose last event is asked for in one round trip. It may hold a long text."""

H = TypeVar("H", JobHandle, AsyncJobHandle)


class ThreadArrivals:
    """Arrivals for one waiting thread; each wait is a single call into C, as in `waking.ThreadSignal`."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._first: list[Any] = []

    def put(self, member: Any) -> None:
        """From any thread."""
        self._queue.put(member)

    def take(self) -> list[Any]:
        """What has come since."""
        taken, self._first = self._first, []
        while not self._queue.empty():
            taken.append(self._queue.get_nowait())
        return taken

    def wait(self, timeout_s: float) -> None:
        """Return when something has come, or when the time is over."""
        with contextlib.suppress(Empty):
            self._first.append(self._queue.get(timeout=timeout_s))


class TaskArrivals:
    """Arrivals for one task. Its hubs are on the same event loop."""

    def __init__(self) -> None:
        self._members: deque[Any] = deque()
        self._came = asyncio.Event()

    def put(self, member: Any) -> None:
        """On the loop's thread."""
        self._members.append(member)
        self._came.set()

    def take(self) -> list[Any]:
        """What has come since."""
        taken = list(self._members)
        self._members.clear()
        return taken

    async def wait(self, timeout_s: float) -> None:
        """As `ThreadArrivals.wait`. Other tasks have their turn in any case."""
        if not self._members:
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._came.wait()


def race_of(handles: list[JobHandle], timeout_s: float | None) -> tuple[Race[JobHandle], ThreadArrivals]:
    """The race of these handles, and what it hears of."""
    arrivals = ThreadArrivals()
    seats = {id(handle._producer): handle._producer._seat() for handle in handles}  # noqa: SLF001 - of this package
    entries = [(handle.job_id, seats[id(handle._producer)], handle) for handle in handles]  # noqa: SLF001
    return Race(entries, timeout_s, arrivals), arrivals


async def race_of_async(
    handles: list[AsyncJobHandle], timeout_s: float | None
) -> tuple[Race[AsyncJobHandle], TaskArrivals]:
    """As `race_of`.  Raises RuntimeError for a producer that another event loop uses."""
    arrivals = TaskArrivals()
    producers = {id(handle._producer): handle._producer for handle in handles}  # noqa: SLF001
    seats = {key: await producer._seat() for key, producer in producers.items()}  # noqa: SLF001
    entries = [(handle.job_id, seats[id(handle._producer)], handle) for handle in handles]  # noqa: SLF001
    return Race(entries, timeout_s, arrivals), arrivals


def ends(race: Race[H], arrivals: ThreadArrivals) -> Generator[Member[H], None, None]:
    """Each as it ends, or as it is known that it never will.  Raises as `Race`, and BrokerUnavailable."""
    with race:
        for members in race.first_looks(ASKED_AT_ONCE):
            first = members[0]
            results = first.seat.link.run(_look(members), first.patience.answer_by, first.job_id)
            yield from _ended(race, members, results)
        while race.pending:
            for member in race.due():
                member.seat.link.run(member.go_on(), member.patience.answer_by, member.job_id)
                if race.settle(member):
                    yield member
            arrivals.wait(race.idle_s)


async def ends_async(race: Race[H], arrivals: TaskArrivals) -> AsyncGenerator[Member[H], None]:
    """As `ends`."""
    with race:
        for members in race.first_looks(ASKED_AT_ONCE):
            first = members[0]
            results = await first.seat.link.run(_look(members), first.patience.answer_by, first.job_id)
            for member in _ended(race, members, results):
                yield member
        while race.pending:
            due = race.due()
            ran = [
                member.seat.link.run(member.go_on(), member.patience.answer_by, member.job_id) for member in due
            ]
            # All of them are waited for, also where one fails: none may go on with what is closed below.
            for error in await asyncio.gather(*ran, return_exceptions=True):
                if error is not None:
                    raise error
            for member in due:
                if race.settle(member):
                    yield member
            await arrivals.wait(race.idle_s)


def _look(members: Sequence[Member[Any]]) -> Operation[dict[str, GenerationResult]]:
    first = members[0]
    waits = first.seat.waits
    operation = ended_already(waits.keys, [member.job_id for member in members])
    return waits.in_time(operation, first.job_id, first.patience)


def _ended(
    race: Race[H], members: Sequence[Member[H]], results: dict[str, GenerationResult]
) -> Generator[Member[H], None, None]:
    for member in members:
        member.outcome = results.get(member.job_id)
        if member.outcome is not None and race.settle(member):
            yield member
