"""A Redis in memory that a URL leads to: fakeredis. Threads and event loops of this process share it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    from fakeredis import FakeRedis, FakeRedisConnection, FakeServer
    from fakeredis.aioredis import FakeAsyncRedisConnection
except ImportError as error:
    raise ImportError("a test's Redis in memory is missing: pip install 'genqueue[testing]'") from error

from ..broker.in_process import InProcessServer, reachable

VERSION = (7, 4)


class Memory:
    """One Redis in memory."""

    def __init__(self, url: str, server: FakeServer) -> None:
        self.url = url
        self._server = server

    def client(self) -> FakeRedis:
        """A plain client of it, for a look at what stands in Redis."""
        return FakeRedis(server=self._server)


@contextmanager
def memory() -> Iterator[Memory]:
    """A new one, empty, for as long as the block lasts."""
    server = FakeServer(server_type="redis", version=VERSION)
    options: dict[str, Any] = {"server": server}
    with reachable(InProcessServer(FakeRedisConnection, FakeAsyncRedisConnection, options)) as url:
        yield Memory(url, server)
