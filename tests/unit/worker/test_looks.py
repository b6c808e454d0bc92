"""A worker hears of a job in its queues, or of a group that waits; a busy one, of higher jobs alone."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from producer.broker.outage import Outage
from worker import looks as looks_module
from worker.looks import BELLS, Looks
from worker.side_tasks import run_beside

QUEUES = {"high": "q.high", "normal": "q", "low": "q.low"}
BELL_KEYS = {above: f"bell above {above}" for above in BELLS}
BELL = BELL_KEYS[None]
TURNS = 200
"""Of the event loop: a look that finds something does so in its first few."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "TAKE_AGAIN_S", 600)


@asynccontextmanager
async def waiting(client: FakeAsyncRedis, *, bell_alone: bool) -> AsyncIterator[asyncio.Task[None]]:
    """A wait that only a look can end, beside the looks."""
    outage = Outage()
    looks = Looks(client, QUEUES, BELL_KEYS, outage)
    over = asyncio.Event()
    beside = asyncio.create_task(run_beside(_wait(over), looks.side_tasks(), outage))
    task = asyncio.create_task(looks.wait(asyncio.Event().wait(), bell_alone=bell_alone))
    try:
        yield task
    finally:
        task.cancel()
        over.set()
        await beside
        await client.aclose()


async def _wait(over: asyncio.Event) -> None:
    await over.wait()


@pytest.mark.parametrize("name", [*QUEUES.values(), BELL])
async def test_it_wakes_for_each_queue_and_for_the_bell(fake_server: FakeServer, name: str) -> None:
    client = FakeAsyncRedis(server=fake_server)
    await client.rpush(name, "x")
    async with waiting(client, bell_alone=False) as task:
        await asyncio.wait_for(task, 120)
        assert await client.llen(name) == 1, "a look takes nothing"


async def test_it_wakes_for_the_bell_alone_where_what_stands_in_the_queues_may_not_run(
    fake_server: FakeServer,
) -> None:
    client = FakeAsyncRedis(server=fake_server)
    for name in QUEUES.values():
        await client.rpush(name, "x")
    async with waiting(client, bell_alone=True) as task:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not task.done()
        await client.rpush(BELL, "1")
        await asyncio.wait_for(task, 120)


# -- of which priorities


class Lists:
    """In place of Redis: a look ends when a test puts something into its list."""

    def __init__(self) -> None:
        self.filled: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.looked: list[str] = []

    async def blmove(self, key: str, *_: object) -> bytes:
        self.looked.append(key)
        await self.filled[key].wait()
        return b"job"


@pytest.fixture
def lists() -> Lists:
    return Lists()


@pytest.fixture
async def looks(lists):
    looks = Looks(lists, QUEUES, BELL_KEYS, Outage())

    async def repeat(step) -> None:
        while True:
            await step()
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(repeat(side.step)) for side in looks.side_tasks()]
    yield looks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def begun(looks: Looks, **options) -> asyncio.Task:
    """A wait that has begun to look."""
    waiting = asyncio.create_task(looks.wait(asyncio.Event().wait(), **options))
    for _ in range(20):
        await asyncio.sleep(0)
    return waiting


@pytest.mark.parametrize(
    ("options", "looked"),
    [
        ({}, {"q.high", "q", "q.low", "bell above None"}),
        ({"bell_alone": True}, {"bell above None"}),
        ({"above": "low"}, {"q.high", "q", "bell above low"}),
        ({"above": "normal"}, {"q.high", "bell above normal"}),
    ],
)
async def test_it_looks_where_a_job_may_be_that_is_wanted(looks, lists, options, looked):
    waiting = await begun(looks, **options)
    assert set(lists.looked) == looked
    lists.filled[min(looked)].set()
    await asyncio.wait_for(waiting, 60)


async def test_a_look_that_is_left_over_wakes_nobody_who_does_not_want_it(looks, lists):
    """It was begun by an idle worker, whose low job may only make way for higher ones. Redis answers it later."""
    idle = await begun(looks)
    lists.filled["q"].set()
    await asyncio.wait_for(idle, 60)
    lists.filled["q"].clear()
    busy = await begun(looks, above="low")
    for left_over in ("q.low", "bell above None"):
        lists.filled[left_over].set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not busy.done()
    lists.filled["q.high"].set()
    await asyncio.wait_for(busy, 60)


async def test_who_waits_for_something_else_too_is_woken_by_that(looks):
    over = asyncio.Event()
    waiting = asyncio.create_task(looks.wait(over.wait(), above="low"))
    await asyncio.sleep(0)
    over.set()
    await asyncio.wait_for(waiting, 60)
