"""One AsyncProducer and several event loops, as frameworks use it that run each call in a loop of its own."""

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Coroutine
from typing import Any

import pytest
import redis
import redis.asyncio

from producer import AsyncProducer, WaitTimeout
from producer.broker.embedded import EmbeddedBroker


def test_each_loop_after_the_other_works(broker: EmbeddedBroker, redis_client: redis.Redis) -> None:
    """The second loop got connections of the first: "Event loop is closed", every second call."""
    producer = AsyncProducer(broker.url)

    async def submit_and_wait() -> None:
        handle = await producer.submit("Hi", model="tiny")
        with pytest.raises(WaitTimeout):
            await handle.result(timeout_s=0.05)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            asyncio.run(submit_and_wait())
        gc.collect()

    assert [str(warning.message) for warning in caught] == []
    assert redis_client.llen("rq:queue:generate.tiny") == 4
    asyncio.run(producer.aclose())


def test_a_loop_that_ends_closes_its_connections(broker: EmbeddedBroker, redis_client: redis.Redis) -> None:
    before = len(redis_client.client_list())
    producer = AsyncProducer(broker.url)

    async def submit() -> None:
        await producer.submit("Hi", model="tiny")

    for _ in range(3):
        asyncio.run(submit())

    deadline = time.monotonic() + 60  # the server notices a little later
    while (left := len(redis_client.client_list())) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left <= before


def test_another_loop_meanwhile_is_refused_at_once(broker: EmbeddedBroker) -> None:
    producer = AsyncProducer(broker.url)
    in_use, over = threading.Event(), threading.Event()

    async def use() -> None:
        await producer.submit("Hi", model="tiny")
        in_use.set()
        await asyncio.to_thread(over.wait)
        await producer.submit("Hi", model="tiny")  # it goes on, undisturbed
        await producer.aclose()

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run(coroutine)

    first = threading.Thread(target=run, args=(use(),))
    first.start()
    in_use.wait()
    try:
        with pytest.raises(RuntimeError, match="make an AsyncProducer for each loop"):
            asyncio.run(producer.submit("Hi", model="tiny"))  # type: ignore[arg-type]
    finally:
        over.set()
        first.join()


def test_a_connection_of_a_loop_that_has_ended_is_named(broker: EmbeddedBroker) -> None:
    connection = redis.asyncio.Redis.from_url(broker.url)
    producer = AsyncProducer(connection=connection)

    async def submit_and_close() -> None:
        await producer.submit("Hi", model="tiny")
        await connection.aclose()

    asyncio.run(submit_and_close())
    with pytest.raises(RuntimeError, match="give it a URL in place of a connection"):
        asyncio.run(producer.workers("tiny"))  # type: ignore[arg-type]
