"""Each step runs on Redis in memory and on a real server: their Lua differs in the odd case."""

import pytest
import redis
from fakeredis import FakeRedis, FakeServer


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest, fake_server: FakeServer) -> redis.Redis:
    """A plain client, on an empty server."""
    return FakeRedis(server=fake_server) if request.param == "fake" else request.getfixturevalue("redis_client")
