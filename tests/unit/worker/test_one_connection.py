"""One connection that is kept: its bound, and what becomes of it after a fault."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from producer.broker import urls
from producer.broker.embedded import EmbeddedBroker
from producer.ledger.step import Step
from worker.one_connection import OneConnection

ECHO = "return ARGV[1]"


@pytest.fixture
async def link(broker: EmbeddedBroker, redis_client: redis.Redis) -> AsyncIterator[OneConnection]:
    """redis_client: for a server that is empty."""
    client = urls.async_client(broker.url, retry=Retry(NoBackoff(), 0))
    yield OneConnection(client, 60)
    await client.aclose()


@contextlib.contextmanager
def frozen(broker: EmbeddedBroker) -> Iterator[None]:
    """A server that keeps its connections and answers nothing."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


async def connections(client: Redis) -> int:
    """That the server has counted since its start."""
    return int((await client.info("stats"))["total_connections_received"])


async def test_one_connection_does_it_all(link: OneConnection) -> None:
    await link.eval(ECHO, 0, "first")
    before = await connections(link.client)

    assert [await link.eval(ECHO, 0, str(number)) for number in range(20)] == [b"%d" % each for each in range(20)]
    assert await connections(link.client) == before


async def test_a_script_that_the_server_does_not_know_is_sent(link: OneConnection) -> None:
    step = Step("last_id", ["gen:{nobody}:events"], [], bytes.decode)

    assert await step.run_async(link) == "0-0"
    assert await step.run_async(link) == "0-0"


async def test_an_error_of_the_script_leaves_the_connection_whole(link: OneConnection) -> None:
    await link.eval(ECHO, 0, "first")
    before = await connections(link.client)

    with pytest.raises(redis.ResponseError, match="the job's own fault"):
        await link.eval("return redis.error_reply('ERR the job\\'s own fault')", 0)
    assert await link.eval(ECHO, 0, "next") == b"next"
    assert await connections(link.client) == before


async def test_a_reply_that_nobody_waits_for_any_more_is_not_the_next_ones(
    link: OneConnection, broker: EmbeddedBroker
) -> None:
    await link.eval(ECHO, 0, "first")
    with frozen(broker):
        given_up = asyncio.create_task(link.eval(ECHO, 0, "given up"))
        await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up

    assert await link.eval(ECHO, 0, "next") == b"next"


async def test_the_bound_holds_with_a_frozen_server_connected_or_not(
    broker: EmbeddedBroker, link: OneConnection
) -> None:
    new = OneConnection(link.client, 0.05)
    connected = OneConnection(link.client, 0.05)
    while True:
        with contextlib.suppress(redis.TimeoutError):  # a slow machine
            await connected.eval(ECHO, 0, "first")
            break

    with frozen(broker):
        for each in (new, connected):
            with pytest.raises(redis.TimeoutError, match=r"within 0\.05 s"):
                await each.eval(ECHO, 0, "unanswered")


async def test_a_connection_that_the_server_has_closed_is_made_anew(link: OneConnection) -> None:
    await link.eval(ECHO, 0, "first")
    await link.client.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.01)  # for the loop to hear of it

    assert await link.eval(ECHO, 0, "next") == b"next"


async def test_who_waits_hears_of_a_connection_that_is_cut(link: OneConnection, broker: EmbeddedBroker) -> None:
    await link.eval(ECHO, 0, "first")
    with frozen(broker):
        waiting = asyncio.create_task(link.eval(ECHO, 0, "cut off"))
        await asyncio.sleep(0.01)
        link._connection._writer.transport.abort()  # as `Links.drop` does
        with pytest.raises(redis.ConnectionError):
            await waiting

    assert await link.eval(ECHO, 0, "next") == b"next"


async def test_what_is_no_reply_is_an_error_and_the_next_is_on_a_new_connection(link: OneConnection) -> None:
    await link.eval(ECHO, 0, "first")
    assert link._replies is not None
    replies = link._replies
    waiting = asyncio.create_task(link.eval(ECHO, 0, "never seen"))
    await asyncio.sleep(0)
    replies.data_received(b"no reply\r\n")
    with pytest.raises(redis.InvalidResponse):
        await waiting

    assert await link.eval(ECHO, 0, "next") == b"next"


async def test_two_at_once_take_turns(link: OneConnection) -> None:
    replies = await asyncio.gather(*(link.eval(ECHO, 0, str(number)) for number in range(20)))

    assert replies == [b"%d" % number for number in range(20)]
