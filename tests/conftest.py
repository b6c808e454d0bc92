"""Fixtures for every suite. Each starts and ends its own server; none touches a server of somebody else."""

import gc
import os
from pathlib import Path

# Before torch is imported anywhere: on two cores, more threads than one only fight the other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Kernels are kept by what they are compiled from, torch's version included: a second run finds those of the first.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "tests" / "inductor"))

import signal
from collections.abc import Iterator

import pytest
import redis
from fakeredis import FakeServer

from producer.broker.embedded import EmbeddedBroker
from producer.testing.plugin import genqueue_worker  # noqa: F401 - this checkout's, whichever is installed

from .order import longest_first

# What is imported and collected stays. To go through it for garbage, again and again, takes a quarter of the time
# of that, and 0.4 s in each test that has garbage collected: it is looked at no more.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which they are begun."""
    longest_first(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """All is imported: what is made from now on is collected as ever."""
    gc.freeze()
    gc.enable()


# Whoever starts the tests in the background, or under nohup, has them ignore what a terminal sends.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def fake_server() -> FakeServer:
    """One in-memory Redis, to be shared by sync and async fakeredis clients."""
    return FakeServer(server_type="redis", version=(7, 4))


@pytest.fixture(scope="session")
def _session_broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def broker(_session_broker: EmbeddedBroker) -> EmbeddedBroker:
    """A real server, empty. It is our own, so that it may be flushed."""
    with redis.Redis(port=_session_broker.port) as client:
        client.flushall()
    return _session_broker


@pytest.fixture
def redis_client(broker: EmbeddedBroker) -> Iterator[redis.Redis]:
    """A plain redis-py client of the real server."""
    with redis.Redis(port=broker.port) as client:
        yield client
