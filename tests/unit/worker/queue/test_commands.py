"""RQ's commands to a worker, also after its connection has come to lead nowhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.queue import commands
from worker.queue.commands import Commands

BOUND_S = 30


class HalfServer:
    """Takes subscriptions, and answers PING for as long as it is told to. It never hangs up."""

    def __init__(self) -> None:
        self.answers = True
        self.subscriptions = self.pings = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak as much of the protocol as one subscriber needs."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readline():
                words = [await self._word(reader) for _ in range(int(head[1:]))]
                writer.write(self._answer(words))
        writer.close()

    async def _word(self, reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2]

    def _answer(self, words: list[bytes]) -> bytes:
        if words[0] == b"SUBSCRIBE":
            self.subscriptions += 1
            return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (len(words[1]), words[1])
        if words == [b"PING"]:
            return b"+PONG\r\n"
        if words[0] == b"PING":
            self.pings += 1
            return b"*2\r\n$4\r\npong\r\n$%d\r\n%s\r\n" % (len(words[1]), words[1]) if self.answers else b""
        return b"+OK\r\n"


@pytest.fixture
async def half_server() -> AsyncIterator[tuple[HalfServer, Redis]]:
    half = HalfServer()
    listening = await asyncio.start_server(half.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    retry = Retry(NoBackoff(), 0)
    client = Redis(port=port, health_check_interval=commands.HEALTH_CHECK_S, retry=retry)
    yield half, client
    await client.aclose()
    listening.close()


@pytest.fixture(autouse=True)
def short_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "HEALTH_CHECK_S", 0.1)


async def for_ever(hears: Commands) -> None:
    """As its side task does."""
    while True:
        await hears.step()


async def test_a_connection_that_leads_nowhere_is_given_up_and_made_anew(worker, short_silences, half_server):
    half, client = half_server
    hears = Commands(client, worker)
    async with asyncio.timeout(BOUND_S):
        while not half.pings:
            with contextlib.suppress(redis.TimeoutError):  # of a machine that stood still
                await hears.step()
        half.answers = False
        with pytest.raises(redis.TimeoutError):
            await for_ever(hears)
        before = half.subscriptions
        await hears.step()
        await hears.step()
    assert half.subscriptions == before + 1
