"""The text alone of a job, on fakeredis: `text` and `text_stream`."""

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from producer import AsyncProducer, EngineError, JobCancelled, NoSuchJob, Producer
from producer.contract import ErrorInfo
from tests.scripted_worker import ScriptedWorker


@pytest.fixture
async def async_producer(fake_server: FakeServer) -> AsyncIterator[AsyncProducer]:
    connection = FakeAsyncRedis(server=fake_server)
    async with AsyncProducer(connection=connection) as producer:
        yield producer
    await connection.aclose()


def fail(worker: ScriptedWorker) -> None:
    worker.take()
    worker.publish("a")
    worker.finish("failed", "error", ErrorInfo(code="engine_error", message="as asked"))


def test_the_text_in_one_and_in_pieces(producer: Producer, worker: ScriptedWorker) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.play("你", "", "好")

    assert handle.text(timeout_s=60) == "你好"
    assert list(handle.text_stream(timeout_s=60)) == ["你", "好"]


def test_a_job_that_failed_raises_its_error_after_its_pieces(producer: Producer, worker: ScriptedWorker) -> None:
    """A half is not taken for the whole."""
    handle = producer.submit("Hi", model="tiny")
    fail(worker)
    pieces = handle.text_stream()

    assert next(pieces) == "a"
    with pytest.raises(EngineError, match="as asked"):
        next(pieces)
    with pytest.raises(EngineError, match="as asked"):
        handle.text()


def test_a_job_that_was_cancelled_raises_that(producer: Producer) -> None:
    handle = producer.submit("Hi", model="tiny")
    handle.cancel()

    with pytest.raises(JobCancelled):
        list(handle.text_stream())
    with pytest.raises(JobCancelled):
        handle.text()


def test_what_is_not_there_is_told_at_the_call(producer: Producer, worker: ScriptedWorker) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.client.flushall()

    with pytest.raises(NoSuchJob):
        handle.text_stream()


def test_a_stream_that_is_left_early_is_followed_no_more(producer: Producer, worker: ScriptedWorker) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    worker.publish("a")
    pieces = handle.text_stream()
    assert next(pieces) == "a"

    pieces.close()

    assert producer._hub._subscriptions._by_stream == {}


async def test_the_same_with_await(async_producer: AsyncProducer, worker: ScriptedWorker) -> None:
    handle = await async_producer.submit("Hi", model="tiny")
    worker.play("你", "好")

    assert await handle.text(timeout_s=60) == "你好"
    assert [piece async for piece in handle.text_stream(timeout_s=60)] == ["你", "好"]


async def test_a_job_that_failed_raises_with_await(async_producer: AsyncProducer, worker: ScriptedWorker) -> None:
    handle = await async_producer.submit("Hi", model="tiny")
    fail(worker)
    pieces = handle.text_stream()

    assert await anext(pieces) == "a"
    with pytest.raises(EngineError, match="as asked"):
        await anext(pieces)
    with pytest.raises(EngineError, match="as asked"):
        await handle.text()
