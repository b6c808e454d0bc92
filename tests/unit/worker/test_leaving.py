"""What the signals mean, and by when the worker has gone."""

import asyncio
import os
import signal

import pytest

from worker import leaving as leaving_module
from worker.leaving import Leaving

BOUND_S = 30


class Grace:
    """Stands for the runner: notes that the running job was put back."""

    def __init__(self, leaving: Leaving) -> None:
        self.over = asyncio.Event()
        leaving.on_grace_over = self.over.set


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_each_signal_asks_for_an_orderly_end(number):
    leaving = Leaving(grace_s=1000, engine_stop_s=1000)
    grace = Grace(leaving)
    with leaving.heeding_signals():
        os.kill(os.getpid(), number)
        async with asyncio.timeout(BOUND_S):
            await leaving.asked.wait()
    assert not grace.over.is_set()
    assert not leaving.overdue.is_set()


async def test_a_signal_that_was_ignored_stays_so():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        leaving = Leaving(grace_s=1, engine_stop_s=1)
        with leaving.heeding_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(BOUND_S):
                await leaving.asked.wait()
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_the_handlers_go_with_the_block():
    with Leaving(grace_s=1, engine_stop_s=1).heeding_signals():
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_after_the_grace_the_job_is_put_back_and_then_time_is_over():
    leaving = Leaving(grace_s=0.01, engine_stop_s=0.02)
    grace = Grace(leaving)
    leaving.on_signal(signal.SIGTERM)
    async with asyncio.timeout(BOUND_S):
        await grace.over.wait()
        await leaving.overdue.wait()


async def test_a_second_signal_puts_the_job_back_at_once_and_leaves_redis_a_moment(monkeypatch):
    monkeypatch.setattr(leaving_module, "HURRY_S", 0.01)
    leaving = Leaving(grace_s=1000, engine_stop_s=1000)
    grace = Grace(leaving)
    leaving.on_signal(signal.SIGTERM)
    leaving.on_signal(signal.SIGTERM)
    assert grace.over.is_set()
    async with asyncio.timeout(BOUND_S):
        await leaving.overdue.wait()


class TestUnlessAsked:
    async def test_the_work_ends_first(self):
        assert await Leaving(grace_s=1, engine_stop_s=1).unless_asked(asyncio.sleep(0, "answer")) == "answer"

    async def test_its_error_is_raised(self):
        async def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await Leaving(grace_s=1, engine_stop_s=1).unless_asked(fail())

    async def test_the_worker_is_told_to_end(self):
        leaving, cancelled = Leaving(grace_s=1, engine_stop_s=1), []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

        asyncio.get_running_loop().call_soon(leaving.on_signal, signal.SIGTERM)
        async with asyncio.timeout(BOUND_S):
            assert await leaving.unless_asked(work()) is None
        assert cancelled == [True]
