"""An idle worker hears of a job in its queues, of a group that waits, or of the groups alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from producer.broker.outage import Outage
from worker import looks as looks_module
from worker.looks import Looks
from worker.side_tasks import run_beside

QUEUES, BELL = ("high", "normal"), "bell"
TURNS = 200
"""Of the event loop: a look that finds something does so in its first few."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "TAKE_AGAIN_S", 600)


@asynccontextmanager
async def waiting(client: FakeAsyncRedis, *, bell_alone: bool) -> AsyncIterator[asyncio.Task[None]]:
    """A wait that only a look can end, beside the looks."""
    outage = Outage()
    looks = Looks(client, QUEUES, BELL, outage)
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


@pytest.mark.parametrize("name", [*QUEUES, BELL])
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
    for name in QUEUES:
        await client.rpush(name, "x")
    async with waiting(client, bell_alone=True) as task:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not task.done()
        await client.rpush(BELL, "1")
        await asyncio.wait_for(task, 120)
