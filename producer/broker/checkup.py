"""A look at a server: version, persistence, memory, clock. Knows redis-py, and nothing of jobs."""

import time
from collections.abc import Mapping
from typing import Any

import redis

from ..contract import BrokerUnavailable
from .connections import address
from .findings import Finding, size
from .server import cluster_fault, eviction_fault, inspect_server

SKEW_S = 1.0
"""Clocks that are further apart make the times strange that people see."""


def check_server(client: redis.Redis) -> list[Finding]:
    """What there is to be said of the server.  Raises errors of Redis when it does not answer."""
    try:
        report = inspect_server(client)
    except BrokerUnavailable as error:
        return [Finding(name="Redis", state="wrong", message=str(error))]
    findings = [Finding(name="Redis", state="ok", message=f"{report.version} at {address(client)}")]
    if fault := cluster_fault(report.info):
        findings.append(Finding(name="cluster mode", state="wrong", message=fault))
    return [*findings, check_persistence(report.info), check_eviction(report.info), _check_clock(client)]


def check_persistence(info: Mapping[str, Any]) -> Finding:
    """Whether jobs outlast a restart.  info: what INFO says."""
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("aof_last_bgrewrite_status", "ok") != "ok":
        return _persistence(
            "wrong", "the append-only file cannot be written: look at the server's log and its disk"
        )
    if info.get("aof_enabled"):
        return _persistence("ok", "an append-only file: jobs outlast a restart")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return _persistence("wrong", "the last snapshot failed: look at the server's log and its disk")
    if info.get("role") == "slave":
        return _persistence("warning", "this is a replica: the URL is to lead to the primary")
    return _persistence(
        "warning",
        "no append-only file: a restart loses the jobs since the last snapshot, or all of them. Start the server "
        "with --appendonly yes, or `genqueue broker --directory FOLDER`",
    )


def check_eviction(info: Mapping[str, Any]) -> Finding:
    """What becomes of jobs when memory is full.  info: what INFO says."""
    if fault := eviction_fault(info):
        return Finding(name="eviction", state="warning", message=fault)
    limit = int(info.get("maxmemory", 0))
    used = int(info.get("used_memory", 0))
    said = f"{size(used)} in use, " + (f"maxmemory {size(limit)}" if limit else "no maxmemory")
    if limit and used > 0.9 * limit:
        return Finding(
            name="eviction", state="warning", message=f"{said}: soon new jobs are refused. Raise maxmemory"
        )
    return Finding(name="eviction", state="ok", message=f"none; {said}")


def judge_skew(skew_s: float) -> Finding:
    """skew_s: how far Redis' clock is ahead of this machine's, in seconds."""
    apart = f"Redis' clock is {abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's"
    if abs(skew_s) <= SKEW_S:
        return Finding(name="clocks", state="ok", message=apart)
    advice = "have both set by NTP (timedatectl): deadlines go by Redis' clock, and times that people see are off"
    return Finding(name="clocks", state="warning", message=f"{apart}: {advice}")


def _persistence(state: Any, message: str) -> Finding:
    return Finding(name="persistence", state=state, message=message)


def _check_clock(client: redis.Redis) -> Finding:
    before = time.time()
    seconds, microseconds = client.time()
    after = time.time()
    there = seconds + microseconds / 1e6
    # Where between the two our own clock was asked is not known: what the way took is no skew.
    return judge_skew(min((there - before, there - after), key=abs) if not before <= there <= after else 0.0)
