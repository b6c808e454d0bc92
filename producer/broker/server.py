"""Whether a server can serve us, asked once at a worker's start. Knows redis-py, and nothing of jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from ..contract import BrokerUnavailable
from .connections import address

NEEDED = (
    *("LMOVE", "BLMOVE", "LPOS", "HSTRLEN", "ZRANGEBYLEX", "PUBLISH", "EVAL", "EVALSHA"),
    *("XADD", "XREAD", "XRANGE", "XREVRANGE", "XTRIM"),
)
"""Commands that not every server has: LMOVE and BLMOVE came with Redis 6.2."""
MINIMUM = "Redis 6.2 or Valkey 7.2 (Redis 7 for configs/redis.acl)"


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What is to be known of a server that can serve us."""

    version: str
    warnings: tuple[str, ...]
    info: Mapping[str, Any] = field(default_factory=dict)
    """What the server says of itself: INFO."""


def inspect_server(client: redis.Redis) -> ServerReport:
    """Look at the server.  Raises BrokerUnavailable, which names its version, when it cannot serve us.

    Raises errors of Redis when it does not answer.
    """
    info: Any = client.info()
    version = _version(info)
    missing = _missing_commands(client)
    if missing:
        raise BrokerUnavailable(
            f"Redis at {address(client)} cannot be used: {version} has no {', '.join(missing)}; it takes {MINIMUM}"
        )
    warnings = (eviction_fault(info), cluster_fault(info))
    return ServerReport(version, tuple(warning for warning in warnings if warning), info)


def _version(info: dict[str, Any]) -> str:
    for name, key in (("Valkey", "valkey_version"), ("Redis", "redis_version")):
        if key in info:
            return f"{name} {info[key]}"
    return "the server"


def _missing_commands(client: redis.Redis) -> list[str]:
    """Those that the server does not have, or that were renamed away. Empty where it does not say."""
    try:
        # As one word: redis-py's own reading of COMMAND's reply stumbles over commands that are not there.
        described: Any = client.execute_command("COMMAND INFO", *NEEDED)  # type: ignore[no-untyped-call]
    except redis.ResponseError:
        return []  # the user may not ask; the first use of each will tell
    known = {bytes(entry[0]).decode().upper() for entry in described if entry}
    return [name for name in NEEDED if name not in known]


def eviction_fault(info: Mapping[str, Any]) -> str | None:
    """What is wrong with what the server does when its memory is full, if anything."""
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) == 0 or policy == "noeviction":
        return None
    return (
        f"Redis evicts keys when its memory is full (maxmemory-policy {policy}): jobs that wait can be lost. "
        "Set maxmemory-policy to noeviction, so that a full server refuses new jobs instead"
    )


def cluster_fault(info: Mapping[str, Any]) -> str | None:
    """What is wrong with how the server is clustered, if anything."""
    if info.get("cluster_enabled"):
        return "the server runs in cluster mode, which RQ does not support: use one without"
    return None
