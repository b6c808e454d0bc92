"""One Redis in memory, and who uses it: a plain client, a producer, a worker that plays what a test tells it."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

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


class Clock:
    """In place of the time.monotonic() that waits go by. It stands still until it is turned."""

    def __init__(self) -> None:
        self.now = time.monotonic()  # the bounds of commands are on the real one

    def __call__(self) -> float:
        return self.now

    def turn(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of `patience`, and no other."""
    clock = Clock()
    monkeypatch.setattr("producer.patience.time", SimpleNamespace(monotonic=clock))
    return clock


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
