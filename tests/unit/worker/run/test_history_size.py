"""A stream's size is looked at before it is read, and what is too large is not."""

import asyncio
import json
import threading
from functools import partial

import pytest
import redis
from redis.asyncio import Redis

from producer.broker.outage import Outage
from producer.contract import (
    BEFORE_FIRST,
    BrokerUnavailable,
    EventId,
    Started,
    StartedData,
)
from worker.job import Done
from worker.run import history, runner
from worker.run.event_log import EventLog, Moved
from worker.run.history import MAX_ATTEMPT, History, read_or_discard_history

from ..scripted_engine import ScriptedEngine
from .runs import JOB, KEYS, order, runner_of
from .streams import ENDED, STARTED, TOKENS, entry, put, read


async def test_a_long_stream_is_parsed_beside_the_event_loop(client, monkeypatch):
    """Else the worker is deaf for seconds: its heartbeat waits, and so does what tells it to stop."""
    parsed_on = []
    real = history.parse_history
    monkeypatch.setattr(
        history, "parse_history", lambda raw: parsed_on.append(threading.current_thread()) or real(raw)
    )
    await put(client, *(entry(f"1-{seq}", "tokens", TOKENS) for seq in range(2)))
    monkeypatch.setattr(history, "MANY_ENTRIES", 2)
    await read(client)
    monkeypatch.setattr(history, "MANY_ENTRIES", 1)
    assert len((await read(client)).events) == 2
    assert [thread is threading.main_thread() for thread in parsed_on] == [True, False]


def bytes_sent(client: redis.Redis) -> int:
    return int(client.info("stats")["total_net_output_bytes"])


@pytest.mark.parametrize("bounds", [{"max_bytes": 2**20}, {"max_entries": 40}], ids=["bytes", "entries"])
async def test_a_stream_of_absurd_size_fails_its_job_unread(real_client, redis_client, bounds):
    """Also where the entry that would be read to see the last id is the one that is too large."""
    await put(real_client, *(entry(f"1-{seq}", "x", json.dumps({"a": "b" * 100_000})) for seq in range(50)))
    before = bytes_sent(redis_client)
    past = await read(real_client, **bounds)
    assert bytes_sent(redis_client) - before < 50_000
    assert past.fault is not None
    assert str(next(iter(bounds.values()))) in str(past.fault)
    assert (past.entries, past.events, past.held) == ((), (), True)
    assert (past.last_attempt, past.after) == (1, EventId(1, 49))


async def test_a_stream_of_just_the_size_is_read(real_client):
    await put(real_client, entry("1-0", "tokens", TOKENS))
    size = await real_client.memory_usage(KEYS.events(JOB))
    assert (await read(real_client, max_bytes=size)).fault is None
    assert f"takes {size} bytes, and {size - 1}" in str((await read(real_client, max_bytes=size - 1)).fault)


async def test_a_server_that_does_not_say_which_ids_there_were_is_not_one_that_has_none(real_client, redis_client):
    """An attempt that began again at 1 would be fenced off by its own ids."""
    rules = ("reset", "on", "nopass", "+@all", "-xinfo", "~*", "&*")
    redis_client.execute_command("ACL", "SETUSER", "old", *rules)
    try:
        async with Redis(
            port=real_client.connection_pool.connection_kwargs["port"], username="old", password="x"
        ) as old:
            with pytest.raises(BrokerUnavailable, match="xinfo"):
                await read_or_discard_history(old, KEYS, JOB, "w1", Outage(patience_s=0.0))
    finally:
        redis_client.execute_command("ACL", "DELUSER", "old")


async def test_a_job_whose_stream_was_not_read_has_its_end_behind_it(real_client, monkeypatch):
    monkeypatch.setattr(runner, "read_or_discard_history", partial(read_or_discard_history, max_entries=10))
    await put(real_client, *(entry(f"4-{seq}", "tokens", TOKENS) for seq in range(11)))
    outcome = await runner_of(ScriptedEngine(), real_client, "w1", cancel_poll_s=1).run(order())
    assert isinstance(outcome, Done)
    assert (outcome.result.status, outcome.result.error.code) == ("failed", "invalid_request")
    assert "holds 11 events, and 10 are read" in outcome.result.error.message
    stream = await real_client.xrange(KEYS.events(JOB))
    assert len(stream) == 12
    assert (stream[-1][0], stream[-1][1][b"type"]) == (b"5-11", b"failed")
    assert json.loads(await real_client.get(KEYS.result(JOB)))["status"] == "failed"


def log_behind(client: Redis, last: EventId) -> EventLog:
    """Of a stream that was not read, and ends with that event."""
    ttl = {"live_ttl_s": 100, "result_ttl_s": 100}
    return EventLog(client, KEYS, JOB, (), worker="w1", as_owner=False, after=last, **ttl)


async def test_a_job_whose_stream_was_not_read_has_its_end_in_an_emptied_redis_too(real_client):
    log = log_behind(real_client, EventId(4, 10))
    log.end(ENDED)
    with pytest.raises(Moved):
        await asyncio.wait_for(log.run(), 20)  # it is read again, and then there is nothing that is too large
    assert (await read(real_client)).after == BEFORE_FIRST


async def test_a_log_behind_a_stream_that_was_not_read_appends_as_any_other(real_client):
    await put(real_client, *(entry(f"4-{seq}", "x", "{}") for seq in range(11)))
    log = log_behind(real_client, EventId(4, 10))
    writer = asyncio.create_task(log.run())
    log.start(Started(data=StartedData.model_validate_json(STARTED)))
    async with asyncio.timeout(20):
        while await real_client.xlen(KEYS.events(JOB)) < 12:
            await asyncio.sleep(0)
        log.end(ENDED)
        await writer
    assert [entry_id for entry_id, _ in await real_client.xrange(KEYS.events(JOB))][11:] == [b"5-11", b"5-12"]


async def test_a_large_stream_with_ids_of_no_workers_making_is_deleted(real_client, caplog):
    await put(real_client, *(entry(f"{MAX_ATTEMPT + 1}-{seq}", "x", "{}") for seq in range(50)))
    assert await read(real_client, max_entries=40) == History()
    assert not await real_client.exists(KEYS.events(JOB))
    assert caplog.messages[0].endswith(": its ids are of no worker's making")


async def test_a_server_that_keeps_the_size_from_us_leaves_the_number_of_entries_as_the_bound(client):
    with pytest.raises(redis.ResponseError):
        await client.memory_usage(KEYS.events(JOB))
    await put(client, *(entry(f"1-{seq}", "x", "{}") for seq in range(50)))
    assert (await read(client, max_entries=50)).fault is None
    assert (await read(client, max_entries=49)).fault is not None
