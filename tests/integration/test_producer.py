"""Both producers on a real server: connections, restarts, refusals, races."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from rq import Queue

from producer import (
    AsyncProducer,
    BrokerUnavailable,
    JobConflict,
    JobHandle,
    Producer,
    ProducerSettings,
    QueueFull,
    StreamedEvent,
)
from producer.broker import connections
from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION, Keys
from producer.ledger.take import take
from producer.operations import Operation
from tests.scripted_worker import ScriptedWorker, blocked_readers

KEYS = Keys()
WAIT_S = 100


@pytest.fixture
def producer(broker: EmbeddedBroker) -> Iterator[Producer]:
    with Producer(broker.url) as producer:
        yield producer


@pytest.fixture
def long_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked read ends by itself only long after a test has given up, however slow the machine is."""
    monkeypatch.setattr(connections, "BLOCK_S", 10 * WAIT_S)


@pytest.fixture
def worker(redis_client: redis.Redis) -> ScriptedWorker:
    return ScriptedWorker(redis_client)


def _texts(events: list[StreamedEvent]) -> list[str]:
    return [event.event.data.text for event in events if event.event.type == "tokens"]


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


class Following(threading.Thread):
    """Follows a job on a thread of its own, and keeps what it saw."""

    def __init__(self, handle: JobHandle, after: str | None = None) -> None:
        super().__init__()
        self.events: list[StreamedEvent] = []
        self._stream = handle.stream(after, timeout_s=100)
        self.start()

    def run(self) -> None:
        for event in self._stream:
            self.events.append(event)

    def until(self, count: int) -> None:
        """Wait until so many events have come."""
        _until(lambda: len(self.events) >= count)


# --- following ------------------------------------------------------------------------------------------------


def test_fifty_streams_cost_one_blocked_connection(
    producer: Producer, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    handles = producer.submit_many(["Hi"] * 50, model="tiny")
    followers = [Following(handle) for handle in handles]
    for handle in handles:
        worker.take(handle.job_id)
    for follower in followers:
        follower.until(1)
    worker.wait_for_reader()

    assert len(blocked_readers(redis_client)) == 1

    for handle in handles:
        worker.play(handle.job_id, job_id=handle.job_id)
    for follower, handle in zip(followers, handles, strict=True):
        follower.join(100)
        assert _texts(follower.events) == [handle.job_id]


async def test_fifty_streams_cost_one_blocked_connection_with_asyncio(
    broker: EmbeddedBroker, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    async with AsyncProducer(broker.url) as producer:
        handles = await producer.submit_many(["Hi"] * 50, model="tiny")
        waiting = [asyncio.create_task(handle.result(timeout_s=100)) for handle in handles]
        while sum(map(len, producer._hub._subscriptions._by_stream.values())) != 50:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(worker.wait_for_reader)

        assert len(blocked_readers(redis_client)) == 1

        for handle in handles:
            await asyncio.to_thread(worker.play, handle.job_id, job_id=handle.job_id)
        assert [result.text for result in await asyncio.gather(*waiting)] == [handle.job_id for handle in handles]


@pytest.mark.slow
async def test_nine_hundred_jobs_are_awaited_at_once_and_nobody_gives_up(
    broker: EmbeddedBroker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand in line behind two live workers for longer than wait_s: each wait has looked, and goes on."""
    workers = [ScriptedWorker(redis_client, name=name) for name in ("w1", "w2")]
    for worker in workers:
        worker.register()
    # The tests' own work holds the loop up, on a busy machine for longer than a connection may take by itself.
    settings = ProducerSettings.load(wait_s=1, connect_timeout_s=60, socket_timeout_s=60)
    async with AsyncProducer(broker.url, settings=settings) as producer:
        handles = await producer.submit_many([f"prompt {number}" for number in range(900)], model="tiny")
        to_look, real_look = {handle.job_id for handle in handles}, producer._operations.look

        def look(job_id: str, **how: float) -> Operation[object]:
            to_look.discard(job_id)
            return (yield from real_look(job_id, **how))

        monkeypatch.setattr(producer._operations, "look", look)
        waiting = [asyncio.create_task(handle.result()) for handle in handles]
        while to_look:
            await asyncio.sleep(0.01)
        for number, handle in enumerate(handles):
            # Whole jobs between two looks: none is seen as one that runs and says nothing, however slow this is.
            workers[number % 2].play(handle.job_id, job_id=handle.job_id)
            for waiter in redis_client.smembers(KEYS.waiters(handle.job_id)):
                redis_client.xadd(waiter, {"ended": handle.job_id})
            await asyncio.sleep(0)
        results = await asyncio.gather(*waiting)
    assert [result.text for result in results] == [handle.job_id for handle in handles]


@pytest.mark.usefixtures("long_reads")
def test_a_job_added_to_a_blocked_read_is_followed_at_once(
    producer: Producer, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    """Without the wake stream its first event would come when the blocked read ends by itself."""
    quiet, busy = producer.submit_many(["Hi", "Ho"], model="tiny")
    follower = Following(quiet)
    worker.wait_for_reader()
    worker.play("a", job_id=busy.job_id)

    assert _texts(list(busy.stream(timeout_s=WAIT_S))) == ["a"]

    worker.play("b", job_id=quiet.job_id)
    follower.join(100)
    assert _texts(follower.events) == ["b"]


@pytest.mark.usefixtures("long_reads")
def test_the_last_subscriber_ends_the_blocked_read_when_it_leaves(
    producer: Producer, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    stream = handle.stream()
    next(stream)
    worker.wait_for_reader()

    stream.close()

    _until(lambda: not blocked_readers(redis_client))


def test_a_wake_stream_expires_by_itself(
    producer: Producer, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    handle = producer.submit("Hi", model="tiny")
    follower = Following(handle)
    worker.wait_for_reader()
    other = Following(producer.submit("Ho", model="tiny"))
    _until(lambda: list(redis_client.scan_iter("gen:{wake:*")))

    (wake,) = redis_client.scan_iter("gen:{wake:*")
    assert 0 < redis_client.ttl(wake) <= 60

    worker.play("a")
    worker.play("b")
    follower.join(100)
    other.join(100)


def test_a_cut_connection_leaves_no_gap_and_no_repeat(
    producer: Producer, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    follower = Following(handle)
    pieces = [str(number) for number in range(30)]

    for number, piece in enumerate(pieces):
        if number % 10 == 5:
            worker.wait_for_reader()
            for reader in blocked_readers(redis_client):
                redis_client.client_kill_filter(_id=reader["id"])
        worker.publish(piece)
    worker.finish()
    follower.join(100)

    assert _texts(follower.events) == pieces
    assert [event.id.seq for event in follower.events] == list(range(32))


def test_a_server_that_is_killed_and_started_again_leaves_no_gap_and_no_repeat() -> None:
    with EmbeddedBroker(append_only=True) as broker, Producer(broker.url) as producer:
        handle = producer.submit("Hi", model="tiny")
        with redis.Redis(port=broker.port) as client:
            worker = ScriptedWorker(client)
            worker.take()
            worker.publish("a", "b")
        follower = Following(handle)
        follower.until(3)

        broker.kill()
        broker.start()

        with redis.Redis(port=broker.port) as client:
            worker.client = client
            worker.publish("c")
            worker.finish()
        follower.join(100)

        assert [str(event.id) for event in follower.events] == ["1-0", "1-1", "1-2", "1-3", "1-4"]
        assert handle.result().text == "abc"


async def test_asyncio_streams_survive_a_restart_too() -> None:
    with EmbeddedBroker(append_only=True) as broker:
        async with AsyncProducer(broker.url) as producer:
            handle = await producer.submit("Hi", model="tiny")
            with redis.Redis(port=broker.port) as client:
                worker = ScriptedWorker(client)
                worker.take()
                worker.publish("a")
            stream = handle.stream(timeout_s=100)
            events = [await anext(stream), await anext(stream)]

            broker.kill()
            broker.start()

            with redis.Redis(port=broker.port) as client:
                worker.client = client
                worker.publish("b")
                worker.finish()
            events += [event async for event in stream]

            assert [str(event.id) for event in events] == ["1-0", "1-1", "1-2", "1-3"]


def test_a_server_that_stays_away_ends_the_wait_with_what_to_do() -> None:
    settings = ProducerSettings.load(wait_s=0.5)
    with EmbeddedBroker() as broker, Producer(broker.url, settings=settings) as producer:
        handle = producer.submit("Hi", model="tiny")
        stream = handle.stream()
        broker.stop()

        with pytest.raises(BrokerUnavailable, match="check the URL and that the server runs"):
            next(stream)


def test_a_connection_of_the_callers_is_used_and_left_open(
    broker: EmbeddedBroker, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    with redis.Redis(port=broker.port) as own:
        with Producer(connection=own) as producer:
            follower = Following(producer.submit("Hi", model="tiny"))
            worker.wait_for_reader()
            worker.play("a")
            follower.join(100)
            assert _texts(follower.events) == ["a"]
        assert own.ping()


# --- submitting -----------------------------------------------------------------------------------------------


def test_a_thousand_jobs_take_one_round_trip(
    producer: Producer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    real = redis.connection.Connection.send_packed_command

    def counting(self: redis.connection.Connection, command: list[bytes], **options: bool) -> None:
        sent.append(b"".join(command)[:40].decode(errors="replace"))
        real(self, command, **options)

    producer.submit("to connect", model="other")
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", counting)
    handles = producer.submit_many((f"prompt {number}" for number in range(1000)), model="tiny", max_queued=1000)
    monkeypatch.undo()

    assert len(sent) == 1
    assert "EVAL" in sent[0]
    assert redis_client.lrange("rq:queue:generate.tiny", 0, -1) == [handle.job_id.encode() for handle in handles]
    with pytest.raises(QueueFull, match="1000 jobs wait"):
        producer.submit_many(["one more"], model="tiny", max_queued=1000)


def test_one_id_submitted_by_many_at_once_is_one_job(producer: Producer, redis_client: redis.Redis) -> None:
    """For those with the first one's request it is theirs; the others are told."""
    together = threading.Barrier(16)

    def submit(number: int) -> JobHandle | None:
        together.wait()
        try:
            return producer.submit(f"prompt {number % 2}", model="tiny", job_id="mine")
        except JobConflict:
            return None

    with ThreadPoolExecutor(16) as pool:
        handles = list(pool.map(submit, range(16)))

    assert sorted(handle.created for handle in handles if handle) == [False] * 7 + [True]
    assert redis_client.lrange("rq:queue:generate.tiny", 0, -1) == [b"mine"]


def test_the_cap_holds_when_many_submit_at_once(producer: Producer, redis_client: redis.Redis) -> None:
    together = threading.Barrier(16)

    def submit(number: int) -> bool:
        together.wait()
        try:
            producer.submit("Hi", model="tiny", priority=("high", "normal", "low")[number % 3], max_queued=5)  # type: ignore[arg-type]
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(submit, range(16))) == 5

    queues = [f"rq:queue:generate.tiny{suffix}" for suffix in (".high", "", ".low")]
    assert sum(redis_client.llen(queue) for queue in queues) == 5


def test_a_cancel_and_a_worker_race_for_the_job_and_one_wins(
    producer: Producer, redis_client: redis.Redis
) -> None:
    """Either the cancel ends it or the worker gets it: never both, never neither."""
    outcomes = set()
    for number in range(40):
        handle = producer.submit("Hi", model="tiny")
        together = threading.Barrier(2)

        def take_it(together: threading.Barrier = together, worker: str = f"racer-{number}") -> object:
            together.wait()
            return take(KEYS, worker, "tiny", known=(), list_ttl_s=60, max_bytes=10**6).run(redis_client)

        with ThreadPoolExecutor(1) as pool:
            taking = pool.submit(take_it)
            together.wait()
            outcome = handle.cancel()
        outcomes.add(outcome)
        assert (taking.result() is None) == (outcome == "cancelled")
        assert bool(redis_client.exists(KEYS.result(handle.job_id))) == (outcome == "cancelled")
        assert bool(redis_client.exists(KEYS.cancel(handle.job_id))) == (outcome == "requested")
    assert outcomes <= {"cancelled", "requested"}


def test_rq_info_and_rqs_own_queue_read_our_jobs(
    producer: Producer, broker: EmbeddedBroker, redis_client: redis.Redis
) -> None:
    handle = producer.submit("Hi", model="tiny")
    queue = Queue("generate.tiny", connection=redis_client, serializer="json")

    (job,) = queue.jobs

    assert (job.id, job.func_name, job.description) == (handle.job_id, FUNCTION, "generate tiny")
    assert queue.get_job_position(handle.job_id) == 0
    info = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--url", broker.url, "--raw"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert "queue generate.tiny 1" in info.stdout


# --- refusals -------------------------------------------------------------------------------------------------


def _server(*options: str) -> EmbeddedBroker:
    return EmbeddedBroker(options=options)


async def _refusals(url: str, **options: float) -> set[str]:
    """What both producers say when they submit there."""
    settings = ProducerSettings.load(redis_url=url, **options)
    messages = set()
    with Producer(settings=settings) as producer, pytest.raises(BrokerUnavailable) as refused:
        producer.submit("Hi", model="tiny")
    messages.add(str(refused.value))
    async with AsyncProducer(settings=settings) as async_producer:
        with pytest.raises(BrokerUnavailable) as refused:
            await async_producer.submit("Hi", model="tiny")
    messages.add(str(refused.value))
    return messages


async def test_a_server_with_a_password_says_what_it_needs() -> None:
    with _server("--requirepass", "hunter2") as broker:
        (missing,) = await _refusals(broker.url)
        (wrong,) = await _refusals(broker.url.replace("redis://", "redis://:hunter3@"))
        with Producer(broker.url.replace("redis://", "redis://:hunter2@")) as producer:
            assert producer.submit("Hi", model="tiny").created

    assert "needs a password" in missing
    assert "user name or password" in wrong
    assert "hunter" not in missing + wrong


async def test_a_user_without_rights_is_named_as_such() -> None:
    with _server("--user", "reader", "on", ">pw", "~*", "+@read", "+@connection") as broker:
        (refusal,) = await _refusals(broker.url.replace("redis://", "redis://reader:pw@"))

    assert "extend the user's ACL" in refusal


async def test_a_user_without_rights_to_the_keys_is_named_as_such() -> None:
    with _server("--user", "writer", "on", ">pw", "~mine:*", "+@all") as broker:
        (refusal,) = await _refusals(broker.url.replace("redis://", "redis://writer:pw@"))

    assert "extend the user's ACL" in refusal


async def test_a_read_only_replica_is_named_as_such() -> None:
    """It may be a primary again: each producer tries it for as long as a command may take."""
    with _server() as primary, _server("--replicaof", f"127.0.0.1 {primary.port}") as replica:
        (refusal,) = await _refusals(replica.url, socket_timeout_s=3)

    assert "read-only replica" in refusal


async def test_a_full_server_is_named_as_such_and_keeps_nothing() -> None:
    with _server("--maxmemory", "1", "--maxmemory-policy", "noeviction") as broker:
        (refusal,) = await _refusals(broker.url)
        with redis.Redis(port=broker.port) as client:
            assert client.dbsize() == 0

    assert "out of memory" in refusal


async def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    with _server() as broker:
        url = broker.url.replace("redis://", "redis://:hunter2@")

    messages = await _refusals(url)

    assert all("check the URL and that the server runs" in message for message in messages)
    assert not any("hunter2" in message for message in messages)


def test_a_stream_is_followed_on_a_replica() -> None:
    with (
        _server("--repl-diskless-sync-delay", "0") as primary,
        _server("--replicaof", f"127.0.0.1 {primary.port}") as replica,
        redis.Redis(port=primary.port) as primary_client,
        redis.Redis(port=replica.port) as replica_client,
        Producer(replica.url) as reader,
    ):
        with Producer(primary.url) as producer:
            handle = producer.submit("Hi", model="tiny")
        ScriptedWorker(primary_client).play("a")
        _until(lambda: replica_client.exists(KEYS.result(handle.job_id)))

        assert _texts(list(reader.stream(handle.job_id))) == ["a"]
