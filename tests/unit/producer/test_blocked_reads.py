"""Reads that are sent ahead: what flows is read with few sends, and nothing is missed that comes otherwise."""

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from producer.blocked_reads import AHEAD, FLOWS_AFTER, BlockedReads
from producer.broker.connections import connect
from producer.broker.embedded import EmbeddedBroker
from producer.contract import BEFORE_FIRST, EventId, Keys, tokens_json
from producer.following import READ_COUNT, Subscriptions
from producer.subscription import Subscription

KEYS = Keys()
JOB, WAKE = KEYS.events("a"), KEYS.wake("me")
BLOCK_MS = 60_000


@pytest.fixture
def reads(broker: EmbeddedBroker, redis_client: redis.Redis) -> Iterator[BlockedReads]:
    """redis_client: for a server that is empty."""
    client = connect(broker.url, connect_timeout_s=60, socket_timeout_s=60)
    yield BlockedReads(client)
    client.close()


def append(client: redis.Redis, seq: int, attempt: int = 1, key: str = JOB) -> None:
    data = tokens_json(seq, [seq], str(seq))
    client.xadd(key, {"type": "tokens", "data": data}, id=f"{attempt}-{seq}")


def read(reads: BlockedReads, cursor: str, *others: str) -> list[bytes]:
    """Ids of what comes, of all streams."""
    streams = {JOB: cursor, **dict.fromkeys(others, "0-0"), WAKE: "0-0"}
    reply = reads.read(streams, count=READ_COUNT, block_ms=BLOCK_MS, may_run_ahead=not others)
    return [entry_id for _, entries in reply for entry_id, _ in entries]


def flow(reads: BlockedReads, client: redis.Redis, events: int = FLOWS_AFTER + 1) -> str:
    """Read so many events, one by one.  Returns the cursor behind them."""
    for seq in range(events):
        append(client, seq)
        assert read(reads, f"1-{seq - 1}" if seq else "0-0") == [b"1-%d" % seq]
    return f"1-{events - 1}"


def blocked(client: redis.Redis, clients: int) -> None:
    """Until so many reads block."""
    deadline = time.monotonic() + 60
    while client.info("clients")["blocked_clients"] != clients:
        assert time.monotonic() < deadline, "no such number of reads blocks"
        time.sleep(0.001)


def test_a_stream_that_flows_is_read_ahead(
    reads: BlockedReads, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    real = reads._send

    def send(streams: dict[str, str], *args: Any, **options: Any) -> None:
        sent.append(streams)
        real(streams, *args, **options)

    monkeypatch.setattr(reads, "_send", send)

    flow(reads, redis_client, FLOWS_AFTER + 3 * (AHEAD + 1))

    assert len(sent) == FLOWS_AFTER + 3


def test_an_event_is_not_missed_behind_a_read_that_brought_none(
    reads: BlockedReads, redis_client: redis.Redis
) -> None:
    cursor = flow(reads, redis_client)
    blocked(redis_client, 1)
    [waits] = [each for each in redis_client.client_list() if each["cmd"] == "xread"]
    redis_client.client_unblock(int(waits["id"]))  # as if the block was over
    blocked(redis_client, 1)
    append(redis_client, FLOWS_AFTER + 1)  # the read that blocks now begins behind it

    assert read(reads, cursor) == []
    assert read(reads, cursor) == [b"1-%d" % (FLOWS_AFTER + 1)]


def test_who_comes_with_an_older_cursor_gets_all_behind_it(reads: BlockedReads, redis_client: redis.Redis) -> None:
    flow(reads, redis_client)

    assert read(reads, "1-2") == [b"1-%d" % seq for seq in range(3, FLOWS_AFTER + 1)]


def test_another_stream_is_read_at_once(reads: BlockedReads, redis_client: redis.Redis) -> None:
    cursor = flow(reads, redis_client)
    append(redis_client, 0, key=KEYS.events("b"))

    assert read(reads, cursor, KEYS.events("b")) == [b"1-0"]


def test_what_is_sent_ahead_is_ended_by_the_wake_stream(reads: BlockedReads, redis_client: redis.Redis) -> None:
    cursor = flow(reads, redis_client)
    redis_client.xadd(WAKE, {"wake": ""}, id="5-0")

    assert read(reads, cursor) == [b"5-0"]


def test_nothing_is_left_at_the_server_once_nobody_follows(reads: BlockedReads, redis_client: redis.Redis) -> None:
    cursor = flow(reads, redis_client)
    blocked(redis_client, 1)

    reads.rest()

    blocked(redis_client, 0)
    append(redis_client, FLOWS_AFTER + 1)
    assert read(reads, cursor) == [b"1-%d" % (FLOWS_AFTER + 1)]


def test_a_connection_that_was_closed_while_nothing_was_read_is_made_anew(
    reads: BlockedReads, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.blocked_reads.FRESH_S", -1.0)
    append(redis_client, 0)
    assert read(reads, "0-0") == [b"1-0"]
    redis_client.client_kill_filter(_type="normal", skipme=True)

    assert read(reads, "0-0") == [b"1-0"]


def test_what_is_no_stream_is_an_error_and_the_next_read_none(
    reads: BlockedReads, redis_client: redis.Redis
) -> None:
    cursor = flow(reads, redis_client)
    redis_client.set(KEYS.events("b"), "")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        read(reads, cursor, KEYS.events("b"))

    append(redis_client, FLOWS_AFTER + 1)
    assert read(reads, cursor) == [b"1-%d" % (FLOWS_AFTER + 1)]


@pytest.mark.parametrize("seed", range(3))
def test_no_gap_and_no_repeat_however_the_events_come(
    reads: BlockedReads, redis_client: redis.Redis, seed: int
) -> None:
    chance = random.Random(seed)
    subscriptions = Subscriptions(KEYS, "me")
    subscriber = Subscription("a", BEFORE_FIRST, threading.Event())
    subscriptions.add(subscriber)
    seen: list[EventId] = []
    written: list[EventId] = []
    attempt = 1
    while len(written) < 300:
        attempt += chance.random() < 0.02
        for _ in range(chance.choice((1, 1, 1, 1, 1, 1, 1, 2, 3))):
            append(redis_client, len(written), attempt)
            written.append(EventId(attempt, len(written)))
        while len(seen) < len(written):
            streams = subscriptions.next_read()
            reply = reads.read(
                streams, count=READ_COUNT, block_ms=BLOCK_MS, may_run_ahead=subscriptions.follows_one
            )
            subscriptions.deliver(reply)
            seen += [event.id for event in subscriber.inbox]
            subscriber.inbox.clear()

    assert seen == written
