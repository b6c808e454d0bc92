"""Many streams of one producer: a bell for each, and what nobody rang for is seen all the same."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis

from producer import AsyncProducer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import BEFORE_FIRST, Entry, EventId, Keys, Tokens, TokensData, encode_entry
from producer.ledger.stream import Appender
from producer.subscription import Subscription

KEYS = Keys()
JOBS = [f"job-{number}" for number in range(6)]
WAIT_S = 60


@pytest.fixture(autouse=True)
def _many_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.bells.MANY", 4)
    monkeypatch.setattr("producer.bells.FEW", 3)


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At what has no bell, and in turn."""
    monkeypatch.setattr("producer.async_hub.LOOK_S", 3600)
    monkeypatch.setattr("producer.cold_streams.CHECK_EVERY_S", 3600)


class Listener:
    """Follows streams of one producer."""

    def __init__(self, producer: AsyncProducer) -> None:
        self.producer = producer
        self.seen: dict[str, list[int]] = {job_id: [] for job_id in JOBS}
        self._tasks = {job_id: asyncio.create_task(self._follow(job_id)) for job_id in JOBS}

    @property
    def subscriptions(self) -> object:
        return self.producer._hub._subscriptions

    async def _follow(self, job_id: str) -> None:
        await self.producer._links.get()
        hub = self.producer._hub
        with hub.following(job_id, BEFORE_FIRST) as subscription:
            while True:
                await hub.wait(subscription, WAIT_S)
                self._take(job_id, subscription)

    def _take(self, job_id: str, subscription: Subscription) -> None:
        assert subscription.error is None
        while subscription.inbox:
            self.seen[job_id].append(subscription.inbox.popleft().id.seq)

    async def leave(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            self._tasks[job_id].cancel()
        await asyncio.wait([self._tasks[job_id] for job_id in job_ids])

    def bells(self) -> int:
        return len(self.producer._hub._subscriptions._rung._streams)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def listen(broker: EmbeddedBroker) -> AsyncIterator[Callable[..., Awaitable[Listener]]]:
    """Follows all jobs; returns once each has its bell."""
    producers: list[AsyncProducer] = []

    async def listen(url: str = broker.url, *, bells: int = len(JOBS)) -> Listener:
        producers.append(AsyncProducer(url))
        listener = Listener(producers[-1])
        await until(lambda: listener.producer._links.current is not None and listener.bells() == bells)
        return listener

    yield listen
    for producer in producers:
        await producer.aclose()


def append(client: redis.Redis, seq: int) -> None:
    """An event to each of the streams, as a worker does."""
    for job_id in JOBS:
        last = EventId(1, seq - 1) if seq else BEFORE_FIRST
        entry = Entry.of(EventId(1, seq), Tokens(data=TokensData(index=seq, ids=(1,), text="x")))
        Appender(KEYS, job_id, "w", as_owner=False).append(last, [entry], ttl_s=60).run(client)


@pytest.mark.usefixtures("nobody_looks")
async def test_what_is_appended_is_heard(
    redis_client: redis.Redis, listen: Callable[..., Awaitable[Listener]]
) -> None:
    append(redis_client, 0)  # before anybody listens
    listener = await listen()
    for seq in range(1, 4):
        append(redis_client, seq)
    await until(lambda: all(seen == [0, 1, 2, 3] for seen in listener.seen.values()))
    clients = redis_client.client_list()
    assert sum(int(each["sub"]) for each in clients) == len(JOBS)
    assert not [each for each in clients if "b" in each["flags"]]  # no read is blocked


async def test_what_came_while_nobody_heard_is_seen_once(
    redis_client: redis.Redis, listen: Callable[..., Awaitable[Listener]]
) -> None:
    listener = await listen()
    for seq in range(8):
        redis_client.client_kill_filter(_type="pubsub")
        append(redis_client, seq)
    await until(lambda: all(seen == list(range(8)) for seen in listener.seen.values()))


@pytest.mark.usefixtures("nobody_looks")
async def test_a_connection_that_was_lost_is_made_anew(
    redis_client: redis.Redis, listen: Callable[..., Awaitable[Listener]]
) -> None:
    listener = await listen()
    redis_client.client_kill_filter(_type="pubsub")
    await until(lambda: listener.bells() == 0)
    await until(lambda: listener.bells() == len(JOBS))
    append(redis_client, 0)
    await until(lambda: all(seen == [0] for seen in listener.seen.values()))


async def test_a_writer_that_rings_no_bell_is_found(
    redis_client: redis.Redis,
    listen: Callable[..., Awaitable[Listener]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producer.cold_streams.CHECK_EVERY_S", 0.01)
    listener = await listen()
    for job_id in JOBS:
        redis_client.xadd(
            KEYS.events(job_id), encode_entry(Tokens(data=TokensData(index=0, ids=(), text=""))), "1-0"
        )
    await until(lambda: all(seen == [0] for seen in listener.seen.values()))


@pytest.mark.usefixtures("nobody_looks")
async def test_what_a_channel_says_is_not_believed(
    redis_client: redis.Redis, listen: Callable[..., Awaitable[Listener]]
) -> None:
    """It belongs to all databases of the server, where a job of the same name may be another."""
    listener = await listen()
    redis_client.publish(
        KEYS.tokens(JOBS[0]), '{"id":"1-0","type":"tokens","data":{"index":0,"ids":[],"text":"no"}}'
    )
    append(redis_client, 0)
    append(redis_client, 1)
    await until(lambda: all(seen == [0, 1] for seen in listener.seen.values()))


async def test_who_may_not_hear_reads_as_before(
    broker: EmbeddedBroker, redis_client: redis.Redis, listen: Callable[..., Awaitable[Listener]]
) -> None:
    redis_client.acl_setuser(
        "deaf", enabled=True, passwords=["+deaf"], categories=["+@all"], keys=["*"], reset=True
    )
    listener = await listen(f"redis://deaf:deaf@127.0.0.1:{broker.port}/0", bells=0)
    append(redis_client, 0)
    bells = listener.producer._hub._bells
    await until(lambda: bells is not None and bells._is_refused)
    append(redis_client, 1)
    await until(lambda: all(seen == [0, 1] for seen in listener.seen.values()))
    redis_client.acl_deluser("deaf")


@pytest.mark.usefixtures("nobody_looks")
async def test_the_last_few_are_read_as_before(
    redis_client: redis.Redis, listen: Callable[..., Awaitable[Listener]]
) -> None:
    listener = await listen()
    await listener.leave(JOBS[2:])
    assert listener.bells() == 0
    append(redis_client, 0)
    await until(lambda: all(listener.seen[job_id] == [0] for job_id in JOBS[:2]))
    await until(lambda: not [each for each in redis_client.client_list() if int(each["sub"])])
