"""Connections to Redis.

Knows redis-py, and nothing of jobs. `protocol` stays unset: an explicit 3 changes the shape of XREAD's reply.
"""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from . import urls

BLOCK_S = 4.0
"""Longest blocked read: below redis-py's default socket_timeout of 5 s, which a caller's connection may have."""
COMMAND_RETRIES = 3
"""Every operation may be sent twice: a job's id makes its submission idempotent."""


def connect(
    redis_url: str, *, connect_timeout_s: float, socket_timeout_s: float, blocking: bool = False
) -> redis.Redis:
    """A client of its own pool. One for blocking reads does not retry: its caller does, from its cursors."""
    retry = Retry(_backoff(), 0 if blocking else COMMAND_RETRIES)
    return urls.client(redis_url, retry=retry, **_options(connect_timeout_s, socket_timeout_s, blocking=blocking))


def connect_async(
    redis_url: str, *, connect_timeout_s: float, socket_timeout_s: float, blocking: bool = False
) -> redis.asyncio.Redis:
    """As `connect`, for asyncio."""
    retry = AsyncRetry(_backoff(), 0 if blocking else COMMAND_RETRIES)
    return urls.async_client(
        redis_url, retry=retry, **_options(connect_timeout_s, socket_timeout_s, blocking=blocking)
    )


def check_returns_bytes(client: redis.Redis | redis.asyncio.Redis) -> None:
    """Raises ValueError for a client with decode_responses=True: RQ's job hashes hold compressed bytes."""
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ValueError("the connection has decode_responses=True: pass one without, as RQ needs bytes, too")


def block_ms(client: redis.Redis | redis.asyncio.Redis) -> int:
    """How long a read through this client may block, so that its own socket time-out does not cut it off."""
    socket_timeout_s = client.connection_pool.connection_kwargs.get("socket_timeout")
    return int(1000 * (BLOCK_S if socket_timeout_s is None else min(BLOCK_S, 0.8 * socket_timeout_s)))


def address(client: redis.Redis | redis.asyncio.Redis) -> str:
    """Where the client connects to, without a password."""
    pool = client.connection_pool
    options = pool.connection_kwargs
    if path := options.get("path"):
        return f"unix://{path}"
    if service := getattr(pool, "service_name", None):
        return f"the primary of {service!r}, as its Sentinels name it"
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(cap=0.5, base=0.05)


def _options(connect_timeout_s: float, socket_timeout_s: float, *, blocking: bool) -> dict[str, Any]:
    return {
        "socket_connect_timeout": connect_timeout_s,
        "socket_timeout": BLOCK_S + socket_timeout_s if blocking else socket_timeout_s,
        "socket_keepalive": True,
    }
