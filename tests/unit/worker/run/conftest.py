"""A worker that has taken a job, on an in-memory Redis and an engine that says what a test tells it to."""

from collections.abc import AsyncIterator

import pytest
import redis
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from producer.broker.embedded import EmbeddedBroker
from worker.run.runner import Runner

from ..scripted_engine import ScriptedEngine
from .runs import JOB, KEYS, runner_of


@pytest.fixture
async def client(fake_server: FakeServer) -> AsyncIterator[FakeAsyncRedis]:
    client = FakeAsyncRedis(server=fake_server)
    for worker in ("w1", "w2"):
        await client.rpush(KEYS.taken(worker), JOB)
    yield client
    await client.aclose()


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def runner(client: FakeAsyncRedis, engine: ScriptedEngine) -> Runner:
    return runner_of(engine, client, "w1", cancel_poll_s=0.001)


@pytest.fixture
async def real_client(broker: EmbeddedBroker, redis_client: redis.Redis) -> AsyncIterator[Redis]:
    """A real server, where the worker has taken the job."""
    redis_client.rpush(KEYS.taken("w1"), JOB)
    client = Redis(port=broker.port)
    yield client
    await client.aclose()
