"""What an owner may ask for. Time is turned by what stands on Redis, and never waited for."""

from itertools import count

import pytest
import redis

from producer.ledger.limits import OPEN_MS, Limits, Reached, begin, end, stay

from .steps import KEYS

STILL_S = -50
"""The clock stands still for so long."""
_others = count()
LEFT, OPEN = KEYS.limits("alice"), KEYS.open_requests("alice")


def ask(
    client: redis.Redis, limits: Limits, request_id: str | None = None, tokens: int = 0, owner: str = "alice"
) -> Reached | None:
    """A request begins, another one where it has no id. The clock stands still until it is turned."""
    request_id = request_id or f"another-{next(_others)}"
    reached = begin(KEYS, owner, limits, request_id, tokens=tokens).run(client)
    turn(client, STILL_S)
    return reached


def over(client: redis.Redis, limits: Limits, request_id: str, unused: int) -> None:
    """It is over, and the clock stands still."""
    assert end(KEYS, "alice", limits, request_id, unused=unused).run(client) is None
    turn(client, STILL_S)


def turn(client: redis.Redis, seconds: float) -> None:
    """So many seconds have passed since anything was taken; below 0 none have."""
    for name in ("requests_at_ms", "tokens_at_ms"):
        if client.hexists(LEFT, name):
            client.hset(LEFT, name, client.time()[0] * 1000 - round(1000 * seconds))


def test_requests_of_a_minute_come_at_once_and_fill_up_evenly(client):
    limits = Limits(requests=6)
    assert [ask(client, limits) for _ in range(6)] == [None] * 6
    refused = ask(client, limits)
    assert refused.limit == "requests"
    assert refused.wait_s == 10
    assert ask(client, limits, owner="bob") is None
    turn(client, 11)
    assert ask(client, limits) is None
    assert ask(client, limits).limit == "requests"
    turn(client, 1000)
    assert [ask(client, limits) is None for _ in range(7)] == [True] * 6 + [False]


def test_tokens_are_counted_before_they_come(client):
    limits = Limits(tokens=1000)
    assert ask(client, limits, tokens=900) is None
    assert ask(client, limits, tokens=100) is None
    refused = ask(client, limits, tokens=500)
    assert refused == Reached("tokens", 30.0)


def test_what_is_more_than_a_minutes_is_let_in_where_all_of_that_is_left(client):
    limits = Limits(tokens=1000)
    assert ask(client, limits, tokens=3000) is None
    refused = ask(client, limits, tokens=1)
    assert refused == Reached("tokens", pytest.approx(120.06))
    assert 100_000 < client.pttl(LEFT) <= 181_000


def test_what_is_refused_counts_for_nothing(client):
    limits = Limits(requests=2, tokens=100, at_once=1)
    assert ask(client, limits, "1", tokens=10) is None
    before = client.hmget(LEFT, "requests", "tokens")  # the times are those of the last turn
    assert ask(client, limits, "2", tokens=10) == Reached("open", None)
    assert ask(client, limits, "2", tokens=95).limit == "tokens"
    assert client.hmget(LEFT, "requests", "tokens") == before
    assert client.zrange(OPEN, 0, -1) == [b"1"]


@pytest.mark.parametrize("at_once", [0, 1])
def test_a_request_that_is_said_again_is_in(client, at_once):
    """A command is sent again when its reply got lost. It was refused, for its own place, and counted twice."""
    limits = Limits(requests=2, tokens=100, at_once=at_once)
    assert [ask(client, limits, "1", tokens=60) for _ in range(3)] == [None] * 3
    over(client, limits, "1", 0)
    assert ask(client, limits, "2", tokens=40) is None


def test_an_end_that_is_said_again_gives_back_once(client):
    limits = Limits(tokens=100)
    assert [ask(client, limits, each, tokens=50) for each in "12"] == [None] * 2
    for _ in range(3):
        over(client, limits, "1", 30)
    assert float(client.hget(LEFT, "tokens")) == 30


def test_a_request_ends_also_where_less_than_nothing_is_left(client):
    """Its place stayed taken for half a minute, and nothing was given back."""
    limits = Limits(tokens=100, at_once=1)
    assert ask(client, limits, "1", tokens=1_000) is None
    over(client, limits, "1", 950)
    assert client.exists(OPEN) == 0
    assert ask(client, limits, "2", tokens=50) is None


def test_a_clock_that_has_gone_back_holds_nobody_up(client):
    limits = Limits(requests=1)
    assert ask(client, limits) is None
    assert ask(client, limits).limit == "requests"
    turn(client, -3600)
    assert ask(client, limits) is None


def test_what_a_request_has_not_taken_is_given_back(client):
    limits = Limits(requests=100, tokens=1000, at_once=1)
    assert ask(client, limits, "1", tokens=1000) is None
    over(client, limits, "1", 600)
    assert ask(client, limits, "2", tokens=600) is None
    over(client, limits, "2", 10**6)
    assert float(client.hget(LEFT, "tokens")) == 1000
    assert float(client.hget(LEFT, "requests")) == 98


def test_a_request_counts_while_it_is_said_to_be_open(client):
    limits = Limits(at_once=2)
    assert ask(client, limits, "1") is None
    assert ask(client, limits, "2") is None
    assert ask(client, limits, "3") == Reached("open", None)
    assert 0 < client.pttl(OPEN) <= OPEN_MS
    for name in ("1", "2"):
        client.zadd(OPEN, {name: 1})
    stay(KEYS, "alice", ["1", "9"]).run(client)
    assert ask(client, limits, "3") is None
    assert client.zrange(OPEN, 0, -1) == [b"1", b"3"]
    assert not client.exists(LEFT)


@pytest.mark.parametrize("left", ["", "much"])
def test_what_is_no_number_is_a_whole_minute(client, left):
    client.hset(LEFT, mapping={"requests": left, "requests_at_ms": 1})
    assert ask(client, Limits(requests=1)) is None
    assert ask(client, Limits(requests=1)).limit == "requests"
