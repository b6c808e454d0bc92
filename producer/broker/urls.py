"""From a URL to a client of Redis: the one place that knows every scheme. Producer and worker both come here.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]                                plain
    rediss://…                                                                TLS
    unix://[[USER]:PASSWORD@]/PATH[?db=DB]
    redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DB]
    rediss+sentinel://…                                                       TLS, to the Sentinels as well
    inprocess://NAME                                                          in this process: see `in_process`

With `+sentinel` the hosts are Sentinels, and the client talks to whichever server they call the primary of
SERVICE: it asks them anew for each connection, and so follows a fail-over. User and password are the server's;
those of the Sentinels are `?sentinel_username=…&sentinel_password=…`. redis-py's own options follow the `?` too,
as in `?ssl_ca_certs=/etc/ssl/my-ca.pem` for a CA that the system does not know; `url_parts` lists them.

Knows redis-py, and nothing of jobs.
"""

from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import bounds
from .url_parts import UrlParts, read_url

SENTINEL_TIMEOUT_S = 1.0
"""For one Sentinel's answer. The next one is asked when it is over, so that it bounds what a dead host costs."""

_TCP_ONLY = ("socket_keepalive", "socket_keepalive_options", "socket_type")


def check(url: str) -> str:
    """Return the URL.  Raises ValueError, whose message never quotes it: it may hold a password."""
    read_url(url)
    return url


def client(url: str, **options: Any) -> redis.Redis:
    """A client with a pool of its own.  options: redis-py's; those in the URL come first.

    Raises ValueError when the URL is not one.
    """
    parts = read_url(url)
    options = _connection_options(parts, options)
    pool_options = {name: value for name, value in parts.pool_options.items() if name != "timeout"}
    if parts.service is None:
        pool = redis.ConnectionPool(connection_class=_connection_class(parts), **pool_options, **options)
        return redis.Redis.from_pool(pool)
    sentinels = _Sentinels(
        parts.sentinels, sentinel_kwargs=_sentinel_options(parts, retry=Retry(NoBackoff(), 0)), is_tls=parts.is_tls
    )
    return cast(
        "redis.Redis",
        sentinels.master_for(parts.service, connection_class=_sentinel_class(parts), **pool_options, **options),
    )


def async_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """As `client`, for asyncio. A command waits while all connections of the pool are in use."""
    parts = read_url(url)
    options = _connection_options(parts, options)
    if parts.service is None:
        connection_class = _async_connection_class(parts)
        pool = bounds.AsyncPool(connection_class=connection_class, **parts.pool_options, **options)
        return redis.asyncio.Redis.from_pool(pool)
    sentinels = _AsyncSentinels(
        parts.sentinels, sentinel_kwargs=_sentinel_options(parts, retry=AsyncRetry(NoBackoff(), 0))
    )
    primary: redis.asyncio.Redis = sentinels.master_for(
        parts.service,
        connection_pool_class=bounds.AsyncSentinelPool,
        connection_class=_async_sentinel_class(parts),
        **parts.pool_options,
        **options,
    )
    return primary


def _connection_options(parts: UrlParts, options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if not (parts.is_unix and name in _TCP_ONLY)}
    return {**given, **parts.options}


def _sentinel_options(parts: UrlParts, retry: Any) -> dict[str, Any]:
    timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), SENTINEL_TIMEOUT_S)
    tls = {"ssl": True} if parts.is_tls else {}
    return {**parts.sentinel_options, **tls, **timeouts, "retry": retry}


def _connection_class(parts: UrlParts) -> type[redis.connection.AbstractConnection]:
    if parts.server:
        return parts.server.connection_class
    if parts.is_unix:
        return bounds.BoundedUnixConnection
    return bounds.BoundedSSLConnection if parts.is_tls else bounds.BoundedConnection


def _sentinel_class(parts: UrlParts) -> type[redis.Connection]:
    return bounds.BoundedSentinelSSLConnection if parts.is_tls else bounds.BoundedSentinelConnection


def _async_connection_class(parts: UrlParts) -> type[redis.asyncio.connection.AbstractConnection]:
    if parts.server:
        return parts.server.async_connection_class
    if parts.is_unix:
        return bounds.AsyncBoundedUnixConnection
    return bounds.AsyncBoundedSSLConnection if parts.is_tls else bounds.AsyncBoundedConnection


def _async_sentinel_class(parts: UrlParts) -> type[redis.asyncio.Connection]:
    return bounds.AsyncBoundedSentinelSSLConnection if parts.is_tls else bounds.AsyncBoundedSentinelConnection


class _Sentinels(redis.sentinel.Sentinel):
    """Keeps no connection to a Sentinel open: they are asked once for each new connection to the primary."""

    def __init__(self, *args: Any, is_tls: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        for sentinel in self.sentinels:  # asking them is a part of connecting, and bounded as that is
            connection_class = bounds.BoundedSSLConnection if is_tls else bounds.BoundedConnection
            sentinel.connection_pool.connection_class = connection_class

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """redis-py's: host and port of the primary.  Raises MasterNotFoundError when no Sentinel names one."""
        try:
            return cast("tuple[str, int]", super().discover_master(service_name))
        finally:
            for sentinel in self.sentinels:
                sentinel.connection_pool.disconnect(inuse_connections=False)


class _AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    """As `_Sentinels`."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """As `_Sentinels.discover_master`."""
        try:
            return cast("tuple[str, int]", await super().discover_master(service_name))
        finally:
            for sentinel in self.sentinels:
                await sentinel.connection_pool.disconnect(inuse_connections=False)
