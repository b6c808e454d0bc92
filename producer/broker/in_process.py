"""Servers inside this process: what `inprocess://NAME` leads to.

Whoever has one says here how connections to it are made, as `producer.testing` does for fakeredis. All that takes
a URL then reaches it: settings, producers, commands.

Knows redis-py, and nothing of jobs.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio

SCHEME = "inprocess://"


@dataclass(frozen=True)
class InProcessServer:
    """How it is reached.  options: of its connections, beside redis-py's own."""

    connection_class: type[redis.connection.AbstractConnection]
    async_connection_class: type[redis.asyncio.connection.AbstractConnection]
    options: Mapping[str, Any] = field(default_factory=dict)


_SERVERS: dict[str, InProcessServer] = {}


@contextmanager
def reachable(server: InProcessServer) -> Iterator[str]:
    """Have a URL lead to the server for as long as the block lasts; gives the URL."""
    name = uuid.uuid4().hex[:12]
    _SERVERS[name] = server
    try:
        yield f"{SCHEME}{name}"
    finally:
        del _SERVERS[name]


def find(name: str) -> InProcessServer | None:
    """The server of that name, while it is reachable."""
    return _SERVERS.get(name)
