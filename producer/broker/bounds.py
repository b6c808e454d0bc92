"""Bounds that hold: connections whose every wait ends when what is left of a bound is over.

redis-py's own time-outs are for one read or one write; they begin anew with each, and come on top of connecting.
Here the caller sets a `Bound`, and the connections that it uses meanwhile give each wait no more than is left.

Knows redis-py, and nothing of what is sent.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.sentinel

SHORTEST_S = 0.001
"""What a wait gets when nothing is left: 0 would mean a socket that does not wait, and fails otherwise."""


@dataclass
class Bound:
    """Until when Redis must have answered. Times are those of time.monotonic()."""

    answer_by: float
    connect_by: float
    """For a connection that must be made first, greeting included."""
    is_connecting: bool = False

    @property
    def left_s(self) -> float:
        """What a wait may take that begins now."""
        by = min(self.connect_by, self.answer_by) if self.is_connecting else self.answer_by
        return max(SHORTEST_S, by - time.monotonic())

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """While a connection is made."""
        before, self.is_connecting = self.is_connecting, True
        try:
            yield
        finally:
            self.is_connecting = before


_BOUND: ContextVar[Bound | None] = ContextVar("genqueue_bound", default=None)
"""Of this thread, or of this task."""


@contextlib.contextmanager
def within(bound: Bound) -> Iterator[None]:
    """Hold the connections that the block uses to the bound."""
    token = _BOUND.set(bound)
    try:
        yield
    finally:
        _BOUND.reset(token)


def _connecting() -> contextlib.AbstractContextManager[None]:
    bound = _BOUND.get()
    return bound.connecting() if bound else contextlib.nullcontext()


def _tightened(own_s: float | None) -> float | None:
    bound = _BOUND.get()
    if bound is None:
        return own_s
    return bound.left_s if own_s is None else min(own_s, bound.left_s)


class _Bounded:
    """For a connection class of redis-py: its time-outs are what is left, and are set anew before each wait."""

    _sock: Any
    _socket_timeout: float | None
    _socket_connect_timeout: float | None

    @property
    def socket_timeout(self) -> float | None:
        """redis-py's, in seconds: no more than what is left of the call."""
        return _tightened(self._socket_timeout)

    @socket_timeout.setter
    def socket_timeout(self, value: float | None) -> None:
        """In seconds; None waits for ever."""
        self._socket_timeout = value

    @property
    def socket_connect_timeout(self) -> float | None:
        """redis-py's, in seconds: no more than what is left of the call."""
        return _tightened(self._socket_connect_timeout)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        """In seconds; None waits for ever."""
        self._socket_connect_timeout = value

    def connect(self) -> Any:
        """redis-py's. Sentinels are asked here, where they are."""
        with _connecting():
            return super().connect()  # type: ignore[misc]

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """redis-py's: the connection, and its greeting."""
        with _connecting():
            super().connect_check_health(*args, **options)  # type: ignore[misc]

    def send_packed_command(self, *args: Any, **options: Any) -> None:
        """redis-py's."""
        self._tighten()
        super().send_packed_command(*args, **options)  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        """redis-py's."""
        self._tighten()
        return super().read_response(*args, **options)  # type: ignore[misc]

    def _tighten(self) -> None:
        sock = self._sock
        timeout_s = self.socket_timeout
        if sock is not None and sock.gettimeout() != timeout_s:
            with contextlib.suppress(OSError):  # another thread has closed it, which the next step notices
                sock.settimeout(timeout_s)


class BoundedConnection(_Bounded, redis.Connection):
    """TCP."""


class BoundedSSLConnection(_Bounded, redis.SSLConnection):
    """TLS."""


class BoundedUnixConnection(_Bounded, redis.UnixDomainSocketConnection):
    """A socket in the file system."""


class BoundedSentinelConnection(_Bounded, redis.sentinel.SentinelManagedConnection):
    """To the primary that Sentinels name."""


class BoundedSentinelSSLConnection(_Bounded, redis.sentinel.SentinelManagedSSLConnection):
    """As `BoundedSentinelConnection`, with TLS."""


class Cancels:
    """Those of the running task, from here on.

    Up to Python 3.11 `asyncio.wait_for`, by which redis-py sends, loses one that comes with its result.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0

    @property
    def were_lost(self) -> bool:
        """Whether there was one that was not raised."""
        return self._task is not None and self._task.cancelling() > self._before

    def heed(self) -> None:
        """Raise it."""
        if self.were_lost:
            raise asyncio.CancelledError


class _AsyncBounded:
    """For a connection class of redis.asyncio: bounds connecting. The rest is bounded by the caller's time-out."""

    _writer: asyncio.StreamWriter | None
    is_connected: bool

    async def connect(self) -> None:
        """redis-py's. Sentinels are asked here, where they are."""
        bound = _BOUND.get()
        if bound is None or self.is_connected:
            await super().connect()  # type: ignore[misc]
            return
        with bound.connecting():
            try:
                async with asyncio.timeout(bound.left_s):
                    await super().connect()  # type: ignore[misc]
            except TimeoutError:
                self.abort()
                raise redis.TimeoutError("Timeout connecting to server") from None

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """redis-py's."""
        cancels = Cancels()
        await super().send_packed_command(*args, **options)  # type: ignore[misc]
        if cancels.were_lost:
            await self.disconnect(nowait=True)  # nobody reads the answer
            cancels.heed()

    async def disconnect(self, nowait: bool = False, *args: Any, **options: Any) -> None:
        """redis-py's. One that is not waited for is cut: TLS would keep it, past the event loop's end."""
        if nowait:
            self.abort()
        await super().disconnect(nowait, *args, **options)  # type: ignore[misc]

    def abort(self) -> None:
        """Close it without waiting for the other end, as TLS and unsent bytes would have it."""
        if self._writer is not None:
            self._writer.transport.abort()


class AsyncBoundedConnection(_AsyncBounded, redis.asyncio.Connection):
    """TCP."""


class AsyncBoundedSSLConnection(_AsyncBounded, redis.asyncio.SSLConnection):
    """TLS."""


class AsyncBoundedUnixConnection(_AsyncBounded, redis.asyncio.UnixDomainSocketConnection):
    """A socket in the file system."""


class AsyncBoundedSentinelConnection(_AsyncBounded, redis.asyncio.sentinel.SentinelManagedConnection):
    """To the primary that Sentinels name."""


class AsyncBoundedSentinelSSLConnection(_AsyncBounded, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    """As `AsyncBoundedSentinelConnection`, with TLS."""


class AsyncPool(redis.asyncio.BlockingConnectionPool):
    """A pool whose connections can be dropped without waiting. A command waits for a free one."""

    async def drop(self, *, in_use: bool) -> None:
        """Close the idle connections, and those in use as well if so asked. The next command makes a new one."""
        connections = [*self._get_free_connections(), *(self._get_in_use_connections() if in_use else ())]
        for connection in connections:
            await connection.disconnect(nowait=True)


class AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, AsyncPool):
    """As `AsyncPool`, for the primary that Sentinels name."""


def is_bounded(client: redis.Redis) -> bool:
    """Whether its connections are those of here, to a server of its own process."""
    return issubclass(client.connection_pool.connection_class, _Bounded)


def drop_idle(client: redis.Redis) -> None:
    """Close the connections that nobody uses: the next command makes one, to wherever the address leads now."""
    client.connection_pool.disconnect(inuse_connections=False)


def close_now(client: redis.Redis) -> None:
    """Close the connections, also those that other threads wait on: their waits end, with an error."""
    with contextlib.suppress(Exception):  # a connection that is closed under its user has many words for that
        client.connection_pool.disconnect()


async def drop_idle_async(client: redis.asyncio.Redis) -> None:
    """As `drop_idle`."""
    pool = client.connection_pool
    if isinstance(pool, AsyncPool):
        await pool.drop(in_use=False)
    else:
        await pool.disconnect(inuse_connections=False)
