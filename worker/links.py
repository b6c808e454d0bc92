"""The worker's clients of Redis, and how to cut them.

Knows redis-py, and nothing of jobs. Nothing is tried again in here: each caller has a loop of its own, and knows
what to do meanwhile.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer.broker import urls
from producer.broker.connections import address

from .one_connection import OneConnection
from .queue.commands import HEALTH_CHECK_S
from .queue.rq_worker import SOCKET_TIMEOUT_S

PEEK_S = 4
"""A blocked read ends before any socket time-out does."""
CLOSE_S = 0.5
"""For saying good-bye. A connection under TLS would wait for the answer."""


class OnConnect:
    """Tells a listener of each new connection of a client."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] = lambda: None

    async def set_up(self, connection: Any) -> None:
        """In place of a new connection's own set-up. A method, because redis-py awaits no callable object."""
        await connection.on_connect()
        self.listener()


@dataclass(frozen=True)
class Links:
    """rq: for calls in threads; events: for the streams; appends: to them; looks: for blocked reads, whose pool is
    their own so that they keep no connection from others; presence: one connection, which stands for the worker;
    commands: RQ's, to this worker."""

    rq: Redis
    events: AsyncRedis
    appends: OneConnection
    looks: AsyncRedis
    presence: AsyncRedis
    commands: AsyncRedis
    on_presence: "OnConnect"
    """What is told of each new connection that stands for the worker."""

    @classmethod
    def to(cls, url: str) -> "Links":
        """Clients of the server at that URL. They connect when they are used."""
        bounds = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
        longer = {**bounds, "socket_timeout": PEEK_S + SOCKET_TIMEOUT_S}
        told = OnConnect()
        one = {**bounds, "max_connections": 1, "redis_connect_func": told.set_up}

        def client(**options: Any) -> AsyncRedis:
            """A client of a pool of its own."""
            return urls.async_client(url, retry=AsyncRetry(NoBackoff(), 0), **options)

        return cls(
            rq=urls.client(url, retry=Retry(NoBackoff(), 0), **bounds),
            events=client(**bounds),
            appends=OneConnection(client(socket_connect_timeout=SOCKET_TIMEOUT_S), SOCKET_TIMEOUT_S),
            looks=client(**longer),
            presence=client(**one),
            commands=client(**bounds, health_check_interval=HEALTH_CHECK_S),
            on_presence=told,
        )

    @property
    def address(self) -> str:
        """Where they lead, without a password."""
        return address(self.rq)

    async def drop(self) -> None:
        """Have every call from now on made on a new connection, which may lead to another server.

        Calls that are under way end as those do whose connection breaks: a demoted server refuses neither a read
        nor a subscription, so that one that is spared would stay with it.
        """
        self._hang_up()
        for client in self._for_tasks:
            for connection in list(getattr(client.connection_pool, "_in_use_connections", ())):
                # redis-py's own `disconnect` takes the stream away under the task that reads it.
                if writer := getattr(connection, "_writer", None):
                    writer.transport.abort()
            await self._bounded(client.connection_pool.disconnect(inuse_connections=False))

    async def close(self) -> None:
        """Cut them for good. Waits for nobody, and wakes the threads that read."""
        self._hang_up()
        await asyncio.gather(*(self._bounded(client.aclose()) for client in self._for_tasks))

    @property
    def _for_tasks(self) -> tuple[AsyncRedis, ...]:
        return self.events, self.appends.client, self.looks, self.presence, self.commands

    def _hang_up(self) -> None:
        pool = self.rq.connection_pool
        # redis-py's own `disconnect` takes the socket away under the thread that reads it: shut down, it is an end
        # of file, which that thread knows. RQ's listener is such a one.
        for connection in list(getattr(pool, "_in_use_connections", ())):
            if isinstance(its := getattr(connection, "_sock", None), socket.socket):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(its, socket.SHUT_RDWR)  # past TLS, which would answer first
        pool.disconnect(inuse_connections=False)

    @staticmethod
    async def _bounded(closing: object) -> None:
        with contextlib.suppress(TimeoutError, OSError, redis.RedisError):
            async with asyncio.timeout(CLOSE_S):
                await closing  # type: ignore[misc]
