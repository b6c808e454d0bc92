"""The event log on a Redis that goes away, loses answers, and comes back with less."""

import asyncio

import pytest
import redis

from producer.contract import (
    Tokens,
)
from worker.run.event_log import Fenced

from .logs import drained, finished, history, ids, log_of, started, write
from .runs import JOB, KEYS


class Lossy:
    """A client whose scripts run, and whose answers are lost now and then."""

    def __init__(self, client, lose: set[int]) -> None:
        self._client, self._lose, self.calls = client, lose, 0

    async def evalsha(self, *args):
        return await self._answer(self._client.evalsha(*args))

    async def eval(self, *args):
        return await self._answer(self._client.eval(*args))

    async def _answer(self, call):
        answer = await call
        self.calls += 1
        if self.calls in self._lose:
            raise redis.ConnectionError("the answer was lost")
        return answer


@pytest.mark.parametrize("lose", [{1}, {2}, {3}, {1, 2, 3, 4}])
async def test_an_append_whose_answer_was_lost_is_not_repeated(client, lose):
    log = log_of(Lossy(client, lose))
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    await drained(log)
    log.tokens(0, [5], "a")
    await drained(log)
    log.end(finished())
    await writer
    assert await ids(client) == ["1-0", "1-1", "1-2"]


async def test_a_redis_that_comes_back_empty_gets_the_stream_again_from_its_start(client):
    first = log_of(client)
    first.start(started(1))
    first.tokens(0, [5], "a")
    await write(first)
    log = log_of(client, await history(client))
    writer = asyncio.create_task(log.run())
    log.start(started(2))
    await drained(log)
    before = await client.xrange(KEYS.events(JOB))
    await client.flushall()
    log.tokens(1, [6], "b")
    log.end(finished())
    await writer
    after = await client.xrange(KEYS.events(JOB))
    assert after[: len(before)] == before
    assert await ids(client) == ["1-0", "1-1", "2-2", "2-3", "2-4"]


async def test_a_redis_that_lost_its_last_writes_gets_them_again(client, caplog):
    log = log_of(client)
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    await drained(log)
    log.tokens(0, [5], "a")
    await drained(log)
    [(first_id, fields), _] = await client.xrange(KEYS.events(JOB))
    await client.flushall()
    await client.xadd(KEYS.events(JOB), fields, id=first_id)
    log.tokens(1, [6], "b")
    log.close()
    await writer
    assert await ids(client) == ["1-0", "1-1", "1-2"]
    assert f"job {JOB}: the stream lost 1 events; they are appended again" in caplog.text


@pytest.mark.parametrize("place", [3, 999])
async def test_in_a_redis_that_came_back_empty_somebody_elses_entry_fences_off(client, place):
    """Its place is one that no event of ours has: it is behind the last of three."""
    log = log_of(client)
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    log.tokens(0, [5], "a")
    await drained(log)
    await client.flushall()
    await client.xadd(KEYS.events(JOB), {"type": "tokens", "data": "{}"}, id=f"0-{place}")
    log.tokens(1, [6], "b")
    log.close()
    with pytest.raises(Fenced):
        await writer


async def test_events_wait_in_memory_while_redis_is_away(client, fake_server):
    log = log_of(client)
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    await drained(log)
    fake_server.connected = False
    log.tokens(0, [5], "a")
    await asyncio.sleep(0)  # the writer tries, and fails
    for index in range(1, 50):
        log.tokens(index, [index], "x")
    fake_server.connected = True
    log.end(finished())
    await writer
    events = [streamed.event for streamed in await history(client)]
    joined = [token for event in events if isinstance(event, Tokens) for token in event.data.ids]
    assert joined == [5, *range(1, 50)]


async def test_whoever_waits_for_redis_says_for_which_job(client, fake_server, caplog):
    fake_server.connected = False
    log = log_of(client)
    log.start(started(1))
    writer = asyncio.create_task(write(log))
    async with asyncio.timeout(60):
        while "waiting for Redis" not in caplog.text:
            await asyncio.sleep(0)
    fake_server.connected = True
    await writer
    assert f"events of job '{JOB}': waiting for Redis" in caplog.text
