"""What is said of a server: made-up answers for what cannot be had here, and a real one."""

from typing import Any

import pytest
import redis

from producer.broker import checkup
from producer.broker.checkup import check_eviction, check_persistence, check_server, judge_skew
from producer.broker.findings import FINDINGS, Finding, is_wrong, judge_rights, shown


@pytest.mark.parametrize(
    ("info", "state", "said"),
    [
        ({"aof_enabled": 1, "aof_last_write_status": "ok"}, "ok", "outlast a restart"),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "wrong", "cannot be written"),
        ({"aof_enabled": 1, "aof_last_bgrewrite_status": "err"}, "wrong", "cannot be written"),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "ok"}, "warning", "--appendonly yes"),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "err"}, "wrong", "the last snapshot failed"),
        ({"aof_enabled": 0, "role": "slave"}, "warning", "replica"),
    ],
)
def test_persistence(info: dict[str, Any], state: str, said: str) -> None:
    found = check_persistence(info)
    assert (found.name, found.state) == ("persistence", state)
    assert said in found.message


@pytest.mark.parametrize(
    ("info", "state", "said"),
    [
        ({"maxmemory": 0, "maxmemory_policy": "allkeys-lru", "used_memory": 2**20}, "ok", "no maxmemory"),
        ({"maxmemory": 2**30, "maxmemory_policy": "noeviction", "used_memory": 2**20}, "ok", "maxmemory 1.0 GiB"),
        (
            {"maxmemory": 2**30, "maxmemory_policy": "noeviction", "used_memory": 2**30},
            "warning",
            "Raise maxmemory",
        ),
        ({"maxmemory": 2**30, "maxmemory_policy": "allkeys-lru"}, "warning", "Set maxmemory-policy to noeviction"),
    ],
)
def test_eviction(info: dict[str, Any], state: str, said: str) -> None:
    found = check_eviction(info)
    assert (found.name, found.state) == ("eviction", state)
    assert said in found.message


@pytest.mark.parametrize(
    ("skew_s", "state", "said"),
    [
        (0.2, "ok", "0.2 s ahead of"),
        (-0.9, "ok", "0.9 s behind"),
        (1.5, "warning", "1.5 s ahead of"),
        (-3600, "warning", "NTP"),
    ],
)
def test_clocks(skew_s: float, state: str, said: str) -> None:
    found = judge_skew(skew_s)
    assert (found.name, found.state) == ("clocks", state)
    assert said in found.message


def test_a_clock_is_compared_with_ours(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = checkup.time.time
    monkeypatch.setattr(checkup.time, "time", lambda: ours() - 600)
    [clocks] = [finding for finding in check_server(redis_client) if finding.name == "clocks"]
    assert clocks.state == "warning"
    assert "s ahead of" in clocks.message


def test_a_server_that_can_serve_us(redis_client: redis.Redis) -> None:
    findings = check_server(redis_client)
    assert [finding.name for finding in findings] == ["Redis", "persistence", "eviction", "clocks"]
    assert not is_wrong(findings)
    assert "127.0.0.1" in findings[0].message or "localhost" in findings[0].message


def test_a_server_that_lacks_a_command(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.broker.server.NEEDED", ("LMOVE", "LTELEPORT"))
    [found] = check_server(redis_client)
    assert found.state == "wrong"
    assert "LTELEPORT" in found.message


# -- how it is shown


LONG = Finding(name="eviction", state="warning", message="word " * 40 + "end")


def test_a_finding_is_one_line_for_whoever_searches_it() -> None:
    assert LONG.line().count("\n") == 0
    assert LONG.line().startswith("warning  eviction       word")


def test_a_finding_is_a_paragraph_for_whoever_reads_it() -> None:
    lines = LONG.line(80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith(" " * 24 + "word") for line in lines[1:])


def test_findings_as_json_are_whole() -> None:
    assert FINDINGS.validate_json(shown([LONG], as_json=True)) == [LONG]


def test_rights_that_are_missing_are_named_but_not_all_of_them() -> None:
    assert judge_rights("worker", []).state == "ok"
    found = judge_rights("worker", [f"C{number}" for number in range(7)])
    assert found.state == "wrong"
    assert "C4, and 2 more" in found.message
    assert "C5" not in found.message
