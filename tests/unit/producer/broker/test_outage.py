"""Waiting for Redis: soon again, and said once."""

import logging
from collections.abc import Callable
from itertools import count

import pytest
import redis

from producer.broker import outage
from producer.broker.outage import RETRY_DELAYS_S, Outage, outlast


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


@pytest.fixture
def slept_s(monkeypatch) -> list[float]:
    """How long each wait was to be. None is waited out."""
    delays_s: list[float] = []

    async def sleep(delay_s: float) -> None:
        delays_s.append(delay_s)

    monkeypatch.setattr(outage.asyncio, "sleep", sleep)
    return delays_s


@pytest.fixture
def said(caplog) -> Callable[[], list[str]]:
    """What the log has heard."""
    caplog.set_level(logging.INFO, "producer.broker.outage")
    return lambda: caplog.messages


async def test_an_outage_is_outlasted_and_said_once(slept_s, said):
    server = Server(*[redis.ConnectionError("refused")] * 500)
    assert await outlast(server.ask, "events of job 'a'") == "answer"
    assert server.tries == 501
    first, last = said()
    assert first == "events of job 'a': waiting for Redis: refused"
    assert last.startswith("events of job 'a': going on after ")


async def test_redis_is_noticed_within_a_tenth_of_a_second_however_long_it_was_away(slept_s):
    await outlast(Server(*[redis.ConnectionError("refused")] * 500).ask, "a job")
    assert len(slept_s) == 500
    assert max(slept_s) == RETRY_DELAYS_S[-1] == 0.1


async def test_who_need_not_wait_says_nothing(slept_s, said):
    assert await outlast(Server().ask, "a job") == "answer"
    assert (slept_s, said()) == ([], [])


async def test_another_kind_of_trouble_is_said_too(slept_s, said):
    refused, full = redis.ConnectionError("refused"), redis.exceptions.OutOfMemoryError("full")
    await outlast(Server(refused, full, refused, full).ask, "a job")
    assert [message.rpartition(": ")[2] for message in said()[:-1]] == ["refused", "full"]


async def test_what_is_no_trouble_of_redis_is_raised(slept_s, said):
    with pytest.raises(ZeroDivisionError):
        await outlast(Server(ZeroDivisionError()).ask, "a job")
    assert (slept_s, said()) == ([], [])


def test_the_next_outage_is_said_again_with_its_own_length(monkeypatch, said):
    monkeypatch.setattr(outage.time, "monotonic", count(step=3).__next__)
    seen = Outage("heartbeat")
    for _ in range(2):
        seen.note(redis.ConnectionError("refused"))
        seen.over()
        seen.over()
    assert said() == ["heartbeat: waiting for Redis: refused", "heartbeat: going on after 3.0 s without Redis"] * 2
