"""Waiting for Redis: soon again, said once for all who wait, and not for ever with one that cannot serve us."""

import asyncio
import itertools
import logging
from collections.abc import Callable

import pytest
import redis
from redis import exceptions

from producer.broker import outage as outage_module
from producer.broker.outage import RETRY_DELAYS_S, UNFIT_DELAY_S, Outage
from producer.contract import BrokerUnavailable

REFUSED = redis.ConnectionError("refused")
READ_ONLY = exceptions.ReadOnlyError("You can't write against a read only replica.")


class Server:
    """Raises these errors, one at a try, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.tries = 0

    async def ask(self) -> str:
        self.tries += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


class Clock:
    """Time passes by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outage_module.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(outage_module.asyncio, "sleep", clock.sleep)
    return clock


@pytest.fixture
def said(caplog) -> Callable[[], list[str]]:
    """What the log has heard."""
    caplog.set_level(logging.INFO, "producer.broker.outage")
    return lambda: caplog.messages


async def test_an_outage_is_waited_out_and_said_twice(clock, said):
    server = Server(*[REFUSED] * 500)
    assert await Outage().wait_out(server.ask, "events of job 'a'") == "answer"
    assert server.tries == 501
    assert said() == ["events of job 'a': waiting for Redis: refused", "going on after 49.9 s without Redis"]


async def test_of_a_command_that_failed_nothing_is_said(clock, said):
    """A pipeline's error holds the command, with what was to be written: of a job, its text."""
    of_pipeline = "Command # 3 (HSET rq:job:a data text) of pipeline caused error: refused"
    await Outage().wait_out(Server(redis.ConnectionError(of_pipeline)).ask, "events")
    assert said()[0] == "events: waiting for Redis: refused"


async def test_redis_is_noticed_within_a_tenth_of_a_second_however_long_it_was_away(clock):
    await Outage().wait_out(Server(*[REFUSED] * 500).ask, "a job")
    assert len(clock.slept_s) == 500
    assert max(clock.slept_s) == RETRY_DELAYS_S[-1] == 0.1


async def test_who_need_not_wait_says_nothing(clock, said):
    assert await Outage().wait_out(Server().ask, "a job") == "answer"
    assert (clock.slept_s, said()) == ([], [])


@pytest.mark.parametrize("error", [ZeroDivisionError(), redis.ResponseError("WRONGTYPE of its own")])
async def test_what_will_not_pass_is_raised_at_once(clock, said, error):
    outage = Outage()
    with pytest.raises(type(error)):
        await outage.wait_out(Server(error).ask, "a job")
    assert (clock.slept_s, said(), outage.is_on) == ([], [], False)


async def test_an_outage_is_said_twice_however_many_wait_and_whatever_they_meet(said):
    """23 lines in half a minute, for each who waited and each class of error."""
    outage, back = Outage(), asyncio.Event()
    errors = [REFUSED, redis.TimeoutError("slow"), exceptions.BusyLoadingError("loading"), REFUSED]
    met = [asyncio.Event() for _ in errors]

    def ask_for(error: Exception, has_met: asyncio.Event) -> Callable[[], object]:
        async def ask() -> None:
            if not back.is_set():
                has_met.set()
                raise error

        return ask

    waiting = [
        asyncio.create_task(outage.wait_out(ask_for(error, has_met), f"caller {number}"))
        for number, (error, has_met) in enumerate(zip(errors, met, strict=True))
    ]
    async with asyncio.timeout(30):
        await asyncio.gather(*(has_met.wait() for has_met in met))
        assert outage.is_on
        back.set()
        await asyncio.gather(*waiting)
    first, last = said()
    assert first == "caller 0: waiting for Redis: refused"
    assert last.startswith("going on after ")
    assert not outage.is_on


async def test_one_who_gets_through_does_not_end_the_outage_of_another(said):
    """A full server reads: nobody is to be told that all is well, again and again."""
    outage = Outage()
    await outage.note(exceptions.OutOfMemoryError("full"), "a writer", "a writer")
    outage.over("a reader")
    assert outage.is_on
    outage.over("a writer")
    assert len(said()) == 2


async def test_one_who_waits_no_more_says_nothing_and_leaves_the_end_to_the_next(said):
    outage = Outage()
    waiting = asyncio.create_task(outage.wait_out(Server(*[REFUSED] * 10_000).ask, "a job"))
    while not outage.is_on:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert len(said()) == 1
    outage.over("another")
    assert len(said()) == 2


async def test_the_next_outage_is_said_again_with_its_own_length(clock, said):
    outage = Outage()
    for _ in range(2):
        await outage.note(REFUSED, "heartbeat", "heartbeat")
        clock.now_s += 3
        outage.over("heartbeat")
        outage.over("heartbeat")
    assert said() == ["heartbeat: waiting for Redis: refused", "going on after 3.0 s without Redis"] * 2


class TestUnfit:
    """A server that cannot serve us as it is."""

    async def test_is_tried_for_as_long_as_the_setting_says_and_then_given_up(self, clock, said):
        server = Server(*[READ_ONLY] * 1000)
        with pytest.raises(BrokerUnavailable, match="read-only replica: use the URL of its primary"):
            await Outage(patience_s=30).wait_out(server.ask, "heartbeat")
        assert 30 < clock.now_s - 100 <= 30 + 2 * UNFIT_DELAY_S
        [line] = said()
        assert line.startswith("heartbeat: Redis cannot be used: it is a read-only replica")
        assert line.endswith("it is tried again for 30 s")

    async def test_has_its_connections_dropped_so_that_another_may_answer(self, clock, said):
        dropped = []

        async def drop() -> None:
            dropped.append(clock.now_s)

        outage = Outage(patience_s=30, drop_connections=drop)
        assert await outage.wait_out(Server(*[READ_ONLY] * 9).ask, "heartbeat") == "answer"
        assert len(dropped) > 1
        assert all(later - earlier > 1 for earlier, later in itertools.pairwise(dropped))
        assert len(said()) == 2

    async def test_an_outage_does_not_use_up_the_patience(self, clock):
        errors = [READ_ONLY] * 30 + [REFUSED] * 1000 + [READ_ONLY] * 30
        assert await Outage(patience_s=20).wait_out(Server(*errors).ask, "heartbeat") == "answer"

    async def test_an_outage_that_turns_into_it_has_a_line_more(self, clock, said):
        await Outage(patience_s=20).wait_out(Server(REFUSED, REFUSED, READ_ONLY, READ_ONLY).ask, "heartbeat")
        assert ["waiting" in line for line in said()] == [True, False, False]
