"""One Redis in memory, and who uses it: a plain client, a producer, a worker that plays what a test tells it."""

import threading
from collections.abc import Iterator

import pytest
from fakeredis import FakeRedis, FakeServer

from producer import Producer
from producer.following import Subscriptions
from tests.scripted_worker import ScriptedWorker


@pytest.fixture
def client(fake_server: FakeServer) -> FakeRedis:
    """A plain client."""
    return FakeRedis(server=fake_server)


@pytest.fixture
def producer(fake_server: FakeServer) -> Iterator[Producer]:
    """A producer with a connection of its own."""
    with Producer(connection=FakeRedis(server=fake_server)) as producer:
        yield producer


@pytest.fixture
def worker(client: FakeRedis) -> ScriptedWorker:
    """A worker that serves `tiny`."""
    return ScriptedWorker(client)


@pytest.fixture
def failed_read(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the read of a hub has failed.

    fakeredis meets an outage when a read begins, and not while it is blocked: give the producer's connection a
    short socket_timeout, from which follows how long its reads block.
    """
    failed = threading.Event()
    real = Subscriptions.read_failed

    def read_failed(subscriptions: Subscriptions) -> None:
        real(subscriptions)
        failed.set()

    monkeypatch.setattr(Subscriptions, "read_failed", read_failed)
    return failed
