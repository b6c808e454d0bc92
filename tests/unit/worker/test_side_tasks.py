"""Side tasks: their trouble is their own, and their death is the worker's."""

import asyncio
import logging

import pytest
import redis

from producer.broker.outage import Outage
from producer.contract import BrokerUnavailable
from worker import side_tasks
from worker.side_tasks import SideTask, run_beside

BOUND_S = 30


class Steps:
    """A step that meets these, one at a time, and then goes through; `done` once it has."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.done = asyncio.Event()

    async def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.done.set()


async def run(steps: Steps, outage: Outage | None = None, work: asyncio.Event | None = None) -> None:
    async with asyncio.timeout(BOUND_S):
        task = SideTask("chore", 0.001, steps)
        await run_beside(_until(work or steps.done), [task], outage or Outage())


async def _until(event: asyncio.Event) -> None:
    await event.wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(side_tasks, "RETRY_S", (0.001, 0.001))
    monkeypatch.setattr(side_tasks, "BROKEN_RETRY_S", 0.001)


async def test_what_passes_is_waited_out(caplog):
    caplog.set_level(logging.INFO)
    await run(Steps(*[redis.ConnectionError("gone")] * 5))
    assert next(record.message.partition(":")[0] for record in caplog.records) == "chore"
    assert len(caplog.messages) == 2


async def test_what_somebody_has_written_is_said_once_and_tried_again(caplog):
    await run(Steps(*[redis.ResponseError("WRONGTYPE of a queue")] * 5, *[KeyError("field")] * 5))
    assert caplog.messages == ["chore failed and is tried again"] * 2
    assert "WRONGTYPE" in caplog.text


async def test_a_server_that_cannot_serve_us_ends_the_worker():
    refused = [redis.exceptions.NoPermissionError("User w has no permissions to run the 'hset' command")] * 1000
    with pytest.raises(BrokerUnavailable):
        await run(Steps(*refused), Outage(patience_s=0.01), asyncio.Event())


async def test_one_that_dies_ends_the_work_and_the_others():
    """Half a worker is worse than none."""
    other = asyncio.Event()

    async def outlive() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other.set()

    tasks = [SideTask("other", 0, outlive, blocks=True), SideTask("dies", 0, Steps(BrokerUnavailable("so")))]
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(BrokerUnavailable, match="so"):
            await run_beside(_until(asyncio.Event()), tasks, Outage())
    assert other.is_set()


async def test_a_step_under_way_ends_before_the_worker_does():
    """A heartbeat that came after the good-bye brought the dead worker back for its TTL."""
    began, may_end, ended = asyncio.Event(), asyncio.Event(), []

    async def step() -> None:
        began.set()
        await may_end.wait()
        ended.append(True)

    async def work() -> None:
        await began.wait()
        may_end.set()

    async with asyncio.timeout(BOUND_S):
        await run_beside(work(), [SideTask("heartbeat", 1000, step)], Outage())
    assert ended == [True]


async def test_a_step_that_blocks_is_cut_short():
    async with asyncio.timeout(BOUND_S):
        await run_beside(asyncio.sleep(0), [SideTask("watch", 0, asyncio.Event().wait, blocks=True)], Outage())


async def test_a_client_that_swallows_its_cancellation_is_cancelled_again():
    swallowed = asyncio.Event()

    async def step() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallowed.is_set():
                raise
            swallowed.set()
            await asyncio.Event().wait()

    async def work() -> None:
        await asyncio.sleep(0)

    async with asyncio.timeout(BOUND_S):
        await run_beside(work(), [SideTask("watch", 0, step, blocks=True)], Outage())
    assert swallowed.is_set()


async def test_work_that_is_cut_short_waits_for_no_step_that_swallows_its_cancellation():
    """A client in the middle of a connection does so; the group cancels each of its tasks once only."""
    heard, begun = [], asyncio.Event()

    async def deaf() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append(2)
            raise

    work = asyncio.create_task(
        run_beside(asyncio.Event().wait(), [SideTask("deaf", 0, deaf, blocks=True)], Outage())
    )
    await asyncio.wait_for(begun.wait(), BOUND_S)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(work, BOUND_S)
    assert len(heard) == 2
