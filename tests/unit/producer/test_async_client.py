"""AsyncProducer on fakeredis: the same logic behind an awaiting shell; what differs is the hub."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest
import redis
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer

from producer import (
    AsyncProducer,
    BrokerUnavailable,
    InvalidRequest,
    NoSuchJob,
    Producer,
    QueueFull,
    WaitTimeout,
)
from producer.contract import BEFORE_FIRST, Keys
from producer.operations import Operation
from producer.subscription import INBOX_LIMIT
from tests.scripted_worker import ScriptedWorker

from .streamed import texts_of

KEYS = Keys()


@pytest.fixture
async def producer(fake_server: FakeServer) -> AsyncIterator[AsyncProducer]:
    """In place of the other tests' Producer."""
    connection = FakeAsyncRedis(server=fake_server)
    async with AsyncProducer(connection=connection) as producer:
        yield producer
    await connection.aclose()


async def _until_followed(producer: AsyncProducer, subscribers: int) -> None:
    while sum(map(len, producer._hub._subscriptions._by_stream.values())) != subscribers:
        await asyncio.sleep(0)


async def test_a_job_from_submission_to_result(producer: AsyncProducer, worker: ScriptedWorker) -> None:
    handle = await producer.submit("Hi", model="tiny")
    assert (await handle.status()).position == 0
    playing = asyncio.create_task(asyncio.to_thread(worker.play, "你", "好"))

    events = [event async for event in handle.stream(timeout_s=60)]
    await playing

    assert texts_of(events) == ["你", "好"]
    assert events[-1].is_terminal
    assert (await handle.result()).text == "你好"
    assert await handle.cancel() == "ended"


@pytest.mark.parametrize("error", [redis.ConnectionError("Connection closed"), AttributeError("no reader")])
async def test_a_command_under_which_another_task_closes_the_producer_says_that(
    fake_server: FakeServer, error: Exception
) -> None:
    """redis-py has many words for it."""
    connection = FakeAsyncRedis(server=fake_server)
    producer = AsyncProducer(connection=connection)

    def operation() -> Operation[None]:
        async def close_and_fail(client: object) -> None:
            await producer.aclose()
            raise error

        yield close_and_fail

    with pytest.raises(RuntimeError, match="this AsyncProducer is closed"):
        await producer._run(operation())
    await connection.aclose()


async def test_a_cancel_that_comes_between_two_awaits_is_not_lost(producer: AsyncProducer) -> None:
    """As that of Ctrl-C, while the script computes. redis-py takes it for a time-out of its own."""
    handle = await producer.submit("Hi", model="tiny")

    async def cancelled() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await handle.status()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(cancelled())


async def _loses_a_cancel() -> None:
    """As `asyncio.wait_for` up to Python 3.11, by which redis-py sends: the cancel came with the result."""
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


async def test_a_cancel_that_a_client_loses_is_heard_behind_the_command(producer: AsyncProducer) -> None:
    """Else a wait that was cancelled goes on for as long as its job."""

    def operation() -> Operation[None]:
        yield lambda _: _loses_a_cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(producer._run(operation()))


async def test_a_close_that_the_blocked_read_does_not_hear_is_said_again(
    producer: AsyncProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await producer.workers("tiny")
    is_reading, lost = asyncio.Event(), []

    async def read(*_: object, **__: object) -> None:
        is_reading.set()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            lost.append(True)
        await asyncio.sleep(1000)

    monkeypatch.setattr(producer._hub._blocking_client, "xread", read)
    with producer._hub.following("a", BEFORE_FIRST):
        await is_reading.wait()
    task = producer._hub._task
    await producer.aclose()
    assert lost
    assert task is not None
    assert task.done()


async def test_whoever_subscribes_after_the_close_is_told(producer: AsyncProducer) -> None:
    await producer.workers("tiny")
    hub = producer._hub
    await hub.aclose()

    with hub.following("a", BEFORE_FIRST) as subscription:
        assert isinstance(subscription.error, RuntimeError)
    assert hub._task is None


async def test_what_one_shell_submits_the_other_follows(
    producer: AsyncProducer, worker: ScriptedWorker, fake_server: FakeServer
) -> None:
    handle = await producer.submit("Hi", model="tiny", job_id="mine")
    worker.play("a", "b")

    with Producer(connection=FakeRedis(server=fake_server)) as other:
        assert other.submit("Hi", model="tiny", job_id="mine").created is False
        assert list(other.stream("mine")) == [event async for event in handle.stream()]


async def test_the_result_waits_for_the_end(producer: AsyncProducer, worker: ScriptedWorker) -> None:
    handle = await producer.submit("Hi", model="tiny")
    waiting = asyncio.create_task(handle.result(timeout_s=60))
    await _until_followed(producer, 1)
    worker.take()
    worker.publish("a")
    worker.finish()

    assert (await waiting).text == "a"


async def test_one_process_follows_many_jobs(producer: AsyncProducer, worker: ScriptedWorker) -> None:
    handles = await producer.submit_many([f"prompt {number}" for number in range(20)], model="tiny")

    async def follow(job_id: str) -> list[str]:
        return texts_of([event async for event in producer.stream(job_id, timeout_s=60)])

    followers = [asyncio.create_task(follow(handle.job_id)) for handle in handles]
    for handle in handles:
        await asyncio.to_thread(worker.play, handle.job_id, "!", job_id=handle.job_id)

    assert await asyncio.gather(*followers) == [[handle.job_id, "!"] for handle in handles]


async def test_a_subscriber_leaves_and_goes_on_from_its_cursor(
    producer: AsyncProducer, worker: ScriptedWorker
) -> None:
    handle = await producer.submit("Hi", model="tiny")
    worker.play("a", "b", "c")
    async with aclosing(handle.stream()) as stream:
        seen = [(await anext(stream)).id for _ in range(2)]

    rest = [event async for event in handle.stream(seen[-1])]

    assert texts_of(rest) == ["b", "c"]


async def test_a_slow_reader_gets_more_than_its_inbox_holds(
    producer: AsyncProducer, worker: ScriptedWorker
) -> None:
    handle = await producer.submit("Hi", model="tiny")
    worker.take()
    pieces = [str(number) for number in range(INBOX_LIMIT + 300)]
    pipeline = worker.client.pipeline()
    for seq, piece in enumerate(pieces, start=1):
        data = f'{{"index":{seq - 1},"ids":[1],"text":"{piece}"}}'
        pipeline.xadd(KEYS.events(handle.job_id), {"type": "tokens", "data": data}, id=f"1-{seq}")
    pipeline.execute()
    worker.finish()

    stream = handle.stream(timeout_s=60)
    await anext(stream)
    (subscription,) = producer._hub._subscriptions._by_stream[KEYS.events(handle.job_id)]
    # One less where the first event was taken out of a full inbox: nothing is read again before RESUME_AT.
    while len(subscription.inbox) < INBOX_LIMIT - 1:
        await asyncio.sleep(0)

    assert texts_of([event async for event in stream]) == pieces


async def test_a_cancelled_reader_leaves_the_others_alone(producer: AsyncProducer, worker: ScriptedWorker) -> None:
    handle = await producer.submit("Hi", model="tiny")
    gone = asyncio.create_task(handle.result(timeout_s=60))
    stays = asyncio.create_task(handle.result(timeout_s=60))
    await _until_followed(producer, 2)
    gone.cancel()
    await asyncio.wait([gone])
    await _until_followed(producer, 1)

    worker.play("a")

    assert gone.cancelled()
    assert (await stays).text == "a"


async def test_waiting_past_the_bound_says_what_is_known(producer: AsyncProducer) -> None:
    handle = await producer.submit("Hi", model="tiny")

    with pytest.raises(WaitTimeout, match=r"no live worker serves tiny.*1st in line"):
        await handle.result(timeout_s=0.05)
    with pytest.raises(WaitTimeout):
        await anext(handle.stream(timeout_s=0.05))


async def test_a_wait_of_no_time_finds_what_is_there(producer: AsyncProducer, worker: ScriptedWorker) -> None:
    handle = await producer.submit("Hi", model="tiny")
    with pytest.raises(WaitTimeout, match="1st in line"):
        await handle.result(timeout_s=0)

    worker.play("a")

    assert (await handle.result(timeout_s=0)).text == "a"


async def test_errors_are_those_of_the_other_shell(producer: AsyncProducer, fake_server: FakeServer) -> None:
    with pytest.raises(NoSuchJob):
        await producer.result("unknown")
    with pytest.raises(InvalidRequest):
        await producer.submit("", model="tiny")
    with pytest.raises(QueueFull):
        await producer.submit_many(["a", "b"], model="tiny", max_queued=1)

    fake_server.connected = False
    with pytest.raises(BrokerUnavailable):
        await producer.submit("Hi", model="tiny")
    fake_server.connected = True


async def test_a_stream_survives_an_outage(
    worker: ScriptedWorker, fake_server: FakeServer, failed_read: threading.Event
) -> None:
    connection = FakeAsyncRedis(server=fake_server, socket_timeout=0.1)
    async with AsyncProducer(connection=connection) as producer:
        handle = await producer.submit("Hi", model="tiny")
        worker.take()
        stream = handle.stream(timeout_s=60)
        await anext(stream)

        fake_server.connected = False
        assert await asyncio.to_thread(failed_read.wait, 10)
        fake_server.connected = True
        worker.publish("a")
        worker.finish()

        assert texts_of([event async for event in stream]) == ["a"]
    await connection.aclose()


async def test_a_queued_job_is_cancelled(producer: AsyncProducer) -> None:
    handle = await producer.submit("Hi", model="tiny")

    assert await handle.cancel() == "cancelled"
    assert (await handle.result(check=False)).status == "cancelled"


async def test_a_closed_producer_says_so_and_leaves_no_task(fake_server: FakeServer) -> None:
    connection = FakeAsyncRedis(server=fake_server)
    producer = AsyncProducer(connection=connection)
    handle = await producer.submit("Hi", model="tiny")
    reading = asyncio.create_task(handle.result(timeout_s=60))
    await _until_followed(producer, 1)

    await producer.aclose()
    await producer.aclose()

    with pytest.raises(RuntimeError, match="closed"):
        await reading
    with pytest.raises(RuntimeError, match="this AsyncProducer is closed"):
        await handle.status()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "genqueue-hub"] == []
    await connection.aclose()


async def test_a_connection_that_decodes_is_refused(fake_server: FakeServer) -> None:
    connection = FakeAsyncRedis(server=fake_server, decode_responses=True)

    with pytest.raises(ValueError, match="decode_responses"):
        AsyncProducer(connection=connection)
    await connection.aclose()
