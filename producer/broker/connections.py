"""Connections to Redis.

Knows redis-py, and nothing of jobs. `protocol` stays unset: an explicit 3 changes the shape of XREAD's reply.
"""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import in_process, urls

BLOCK_S = 4.0
"""Longest blocked read: below redis-py's default socket_timeout of 5 s, which a caller's connection may have."""
OVERDUE_S = 4.0
"""After so long without the reply that was due when the block was over, a blocked read's server is given up."""


def connect(
    redis_url: str, *, connect_timeout_s: float, socket_timeout_s: float, blocking: bool = False
) -> redis.Redis:
    """A client of its own pool. It makes one try: who uses it tries again, until a bound of its own is over."""
    options = _options(connect_timeout_s, socket_timeout_s, blocking=blocking)
    return urls.client(redis_url, retry=Retry(NoBackoff(), 0), **options)


def connect_async(
    redis_url: str, *, connect_timeout_s: float, socket_timeout_s: float, blocking: bool = False
) -> redis.asyncio.Redis:
    """As `connect`, for asyncio."""
    options = _options(connect_timeout_s, socket_timeout_s, blocking=blocking)
    return urls.async_client(redis_url, retry=AsyncRetry(NoBackoff(), 0), **options)


def check_suits(client: Any, kind: type[redis.Redis] | type[redis.asyncio.Redis]) -> None:
    """Raises TypeError for a client of another kind; ValueError for one whose replies have another form than RQ,
    and we, can read.
    """
    if not isinstance(client, kind):
        its = f"{type(client).__module__}.{type(client).__qualname__}"
        raise TypeError(
            f"the connection is a {its}: pass a redis.Redis to a Producer, and a redis.asyncio.Redis to an "
            "AsyncProducer"
        )
    options = client.connection_pool.connection_kwargs
    if options.get("decode_responses"):
        raise ValueError("the connection has decode_responses=True: pass one without, as RQ needs bytes, too")
    if str(options.get("protocol") or 2) != "2" or not options.get("legacy_responses", True):
        raise ValueError("the connection speaks RESP3: pass one without protocol=3, as RQ does not work with it")


def block_ms(client: redis.Redis | redis.asyncio.Redis, at_most_s: float = BLOCK_S) -> int:
    """How long a read through this client may block, so that its own socket time-out does not cut it off."""
    socket_timeout_s = client.connection_pool.connection_kwargs.get("socket_timeout")
    block_s = min(BLOCK_S, at_most_s)
    if socket_timeout_s is not None:
        block_s = min(block_s, 0.8 * socket_timeout_s)
    return max(1, int(1000 * block_s))


def address(client: redis.Redis | redis.asyncio.Redis) -> str:
    """Where the client connects to, without a password."""
    pool = client.connection_pool
    options = pool.connection_kwargs
    if path := options.get("path"):
        return f"unix://{path}"
    if str(options.get("host")).startswith(in_process.SCHEME):
        return str(options["host"])
    if service := getattr(pool, "service_name", None):
        return f"the primary of {service!r}, as its Sentinels name it"
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


def _options(connect_timeout_s: float, socket_timeout_s: float, *, blocking: bool) -> dict[str, Any]:
    return {
        "socket_connect_timeout": connect_timeout_s,
        "socket_timeout": BLOCK_S + min(OVERDUE_S, socket_timeout_s) if blocking else socket_timeout_s,
        "socket_keepalive": True,
    }
