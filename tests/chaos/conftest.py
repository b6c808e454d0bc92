"""Real processes, as in the integration suite, and a server that keeps every acknowledged write."""

from collections.abc import Iterator

import pytest
import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.integration.conftest import model_paths, start_worker
from tests.integration.test_address_failover import pair

__all__ = ["model_paths", "pair", "start_worker"]


@pytest.fixture
def durable() -> Iterator[EmbeddedBroker]:
    """A server of the test's own."""
    with EmbeddedBroker(append_only=True) as broker:
        yield broker


@pytest.fixture
def client(durable: EmbeddedBroker) -> Iterator[redis.Redis]:
    """A plain client of that server."""
    with redis.Redis(port=durable.port) as client:
        yield client


@pytest.fixture
def producer(durable: EmbeddedBroker) -> Iterator[Producer]:
    """A producer of that server."""
    with Producer(durable.url) as producer:
        yield producer
