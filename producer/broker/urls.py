"""From a URL to a client of Redis: the one place that knows every scheme. Producer and worker both come here.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]                                plain
    rediss://…                                                                TLS
    unix://[[USER]:PASSWORD@]/PATH[?db=DB]
    redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DB]
    rediss+sentinel://…                                                       TLS, to the Sentinels as well

With `+sentinel` the hosts are Sentinels, and the client talks to whichever server they call the primary of
SERVICE: it asks them anew for each connection, and so follows a fail-over. User and password are the server's;
those of the Sentinels are `?sentinel_username=…&sentinel_password=…`. redis-py's own options follow the `?` too,
as in `?ssl_ca_certs=/etc/ssl/my-ca.pem` for a CA that the system does not know.

Knows redis-py, and nothing of jobs.
"""

from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

SENTINEL_PORT = 26379
SENTINEL_TIMEOUT_S = 1.0
"""For one Sentinel's answer. The next one is asked when it is over, so that it bounds what a dead host costs."""

_SENTINEL_FORM = "redis+sentinel://host:port,host:port/service/db"
_FORMS = f"redis://host:port/db, rediss://host:port/db, unix:///path/to.sock or {_SENTINEL_FORM}"


def check(url: str) -> str:
    """Return the URL.  Raises ValueError, whose message never quotes it: it may hold a password."""
    try:
        _SentinelUrl.parse(url) if is_sentinel(url) else parse_url(url)
    except ValueError:
        raise ValueError(f"it is not the URL of a Redis: use {_FORMS}") from None
    return url


def client(url: str, **options: Any) -> redis.Redis:
    """A client with a pool of its own.  options: redis-py's; those in the URL come first.

    Raises ValueError when the URL is not one.
    """
    if not is_sentinel(url):
        return redis.Redis.from_url(url, **options)
    parsed = _SentinelUrl.parse(url)
    retry = Retry(NoBackoff(), 0)
    sentinels = _Sentinels(parsed.sentinels, sentinel_kwargs={**parsed.sentinel_options, "retry": retry})
    return cast("redis.Redis", sentinels.master_for(parsed.service, **{**options, **parsed.options}))


def async_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """As `client`, for asyncio. A command waits while all connections of the pool are in use."""
    if not is_sentinel(url):
        return redis.asyncio.Redis.from_pool(redis.asyncio.BlockingConnectionPool.from_url(url, **options))
    parsed = _SentinelUrl.parse(url)
    retry = AsyncRetry(NoBackoff(), 0)
    sentinels = _AsyncSentinels(parsed.sentinels, sentinel_kwargs={**parsed.sentinel_options, "retry": retry})
    primary: redis.asyncio.Redis = sentinels.master_for(
        parsed.service, connection_pool_class=_BlockingSentinelPool, **{**options, **parsed.options}
    )
    return primary


def is_sentinel(url: str) -> bool:
    """Whether the URL's hosts are Sentinels."""
    return urlsplit(url).scheme.endswith("+sentinel")


@dataclass(frozen=True)
class _SentinelUrl:
    """What a `+sentinel` URL says: whom to ask for which service, and how to connect to either."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]
    """redis-py's, for connections to the primary."""
    sentinel_options: dict[str, Any]
    """redis-py's, for connections to the Sentinels."""

    @classmethod
    def parse(cls, url: str) -> "_SentinelUrl":
        """Raises ValueError when it names no Sentinel or no service, or when a part of it is not valid."""
        parts = urlsplit(url)
        _, _, hosts = parts.netloc.rpartition("@")
        service, _, db = parts.path.strip("/").partition("/")
        if not service or not hosts or not (db.isdigit() or not db):
            raise ValueError(f"a Sentinel URL has the form {_SENTINEL_FORM}")
        options = _options(parts, db or "0")
        own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        tls = {name: value for name, value in options.items() if name.startswith("ssl")}
        timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), SENTINEL_TIMEOUT_S)
        return cls(tuple(map(_host_and_port, hosts.split(","))), service, options, {**own, **tls, **timeouts})


def _options(parts: SplitResult, db: str) -> dict[str, Any]:
    """User, password, database and query, as redis-py itself reads them from a URL with one host."""
    login = "".join(parts.netloc.rpartition("@")[:2])
    scheme = parts.scheme.removesuffix("+sentinel")
    options: dict[str, Any] = dict(parse_url(f"{scheme}://{login}/{db}?{parts.query}"))
    if options.pop("connection_class", None):
        options["ssl"] = True
    return options


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a Sentinel URL names each Sentinel as host:port, with commas between them")
    return parts.hostname, parts.port or SENTINEL_PORT


class _Sentinels(redis.sentinel.Sentinel):
    """Keeps no connection to a Sentinel open: they are asked once for each new connection to the primary."""

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


class _BlockingSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """A pool for the primary in which a command waits for a free connection."""
