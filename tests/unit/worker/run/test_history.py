"""What a worker makes of the stream that it finds: what it keeps, what it refuses, and what it deletes."""

import asyncio
import json

import pytest
import redis
from redis.asyncio import Redis

from producer.broker.embedded import EmbeddedBroker
from producer.broker.outage import Outage
from producer.contract import (
    BrokerUnavailable,
    InvalidRequest,
    Started,
    StartedData,
)
from worker.job import Done, Superseded
from worker.run.event_log import EventLog
from worker.run.history import MAX_ATTEMPT, History, parse_history, read_or_discard_history

from ..scripted_engine import ScriptedEngine
from .runs import JOB, KEYS, begin, order, runner_of
from .streams import ENDED, NEWER, STARTED, TOKENS, entry, put, read

# -- what is well-formed is kept

WELL_FORMED = {
    "fields of a later version": [entry("1-0", "started", NEWER)],
    "white space and another order of keys": [entry("1-0", "tokens", '{ "text": "a",\n"ids": [5], "index": 0 }')],
    "a type of a later version": [entry("1-0", "planned", '{"steps":["é"]}'), entry("1-1", "started", STARTED)],
    "a type that JSON has to escape": [entry("1-0", 'a"b\\', "{}")],
    "attempts that wrote nothing": [entry("3-0", "started", STARTED), entry("9-1", "started", NEWER)],
    "a reason of a later version": [
        entry("1-0", "finished", json.dumps({**ENDED.model_dump(mode="json"), "finish_reason": "tool", "x": 1}))
    ],
}


@pytest.mark.parametrize("entries", WELL_FORMED.values(), ids=WELL_FORMED)
async def test_a_stream_of_a_later_version_is_kept_byte_for_byte(client, entries):
    await put(client, *entries)
    past = await read(client)
    assert past.fault is None
    assert await client.xrange(KEYS.events(JOB)) == entries
    kept = [(str(each.id).encode(), each.type.encode(), each.data.encode()) for each in past.entries]
    assert kept == [(entry_id, fields[b"type"], fields[b"data"]) for entry_id, fields in entries]


async def test_a_type_of_a_later_version_is_no_event_here_and_has_its_place(client):
    await put(client, entry("1-0", "planned", "{}"), entry("1-1", "started", STARTED), entry("1-2", "x", "{}"))
    past = await read(client)
    assert [(str(event.id), event.event.type) for event in past.events] == [("1-1", "started")]
    log = EventLog(client, KEYS, JOB, past.entries, worker="w1", as_owner=False, live_ttl_s=100, result_ttl_s=100)
    log.end(ENDED)
    await log.run()
    assert (await client.xrange(KEYS.events(JOB)))[-1][0] == b"2-3"


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_redis_that_comes_back_with_less_gets_the_bytes_of_the_later_version_again(client, lost):
    """An older worker has gone on from a newer one's stream, and encodes none of it anew."""
    written = [entry("1-0", "started", NEWER), entry("1-1", "planned", '{"a": 1}'), entry("1-2", "tokens", TOKENS)]
    await put(client, *written)
    past = await read(client)
    log = EventLog(client, KEYS, JOB, past.entries, worker="w1", as_owner=False, live_ttl_s=100, result_ttl_s=100)
    await client.delete(KEYS.events(JOB))
    await put(client, *written[: 3 - lost])
    log.start(Started(data=StartedData.model_validate_json(STARTED)))
    log.end(ENDED)
    await log.run()
    stream = await client.xrange(KEYS.events(JOB))
    assert stream[:3] == written
    assert [entry_id for entry_id, _ in stream[3:]] == [b"2-3", b"2-4"]


# -- what is well-formed and cannot be gone on from

UNREADABLE = {
    "no seed": entry("1-1", "started", '{"attempt":1}'),
    "ids that are none": entry("1-1", "tokens", '{"index":0,"ids":["a"],"text":"a"}'),
}


@pytest.mark.parametrize("unreadable", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_job_whose_stream_cannot_be_gone_on_from_fails_and_keeps_it(client, unreadable):
    after_a_gap = entry("1-2", "tokens", '{"index":2,"ids":[7],"text":"of no use"}')
    written = [entry("1-0", "tokens", TOKENS), unreadable, after_a_gap]
    await put(client, *written)
    engine = ScriptedEngine()
    outcome = await runner_of(engine, client, "w1", cancel_poll_s=1).run(order())
    assert isinstance(outcome, Done)
    assert (outcome.result.status, outcome.result.error.code) == ("failed", "invalid_request")
    kind = unreadable[1][b"type"].decode()
    assert outcome.result.error.message == (
        f"event 1-1 of the job's stream is of type {kind} and lacks what contract version 1 asks of it: "
        "submit the request under another id"
    )
    assert (outcome.result.text, outcome.result.model) == ("a", "tiny")
    assert 90 < await client.ttl(KEYS.events(JOB)) <= 100
    stream = await client.xrange(KEYS.events(JOB))
    assert stream[:3] == written
    assert [(entry_id, fields[b"type"]) for entry_id, fields in stream[3:]] == [(b"2-3", b"failed")]
    assert engine.runs.empty()


async def test_an_end_that_cannot_be_read_is_an_end_all_the_same(client):
    written = [entry("1-0", "finished", '{"job_id":"job-1"}')]
    await put(client, *written)
    outcome = await runner_of(ScriptedEngine(), client, "w1", cancel_poll_s=1).run(order())
    assert isinstance(outcome, Done)
    assert not outcome.is_news
    assert outcome.result.status == "failed"
    assert await client.xrange(KEYS.events(JOB)) == written


async def test_a_job_that_finished_in_a_way_of_a_later_version_is_not_run_again(client):
    later = {**ENDED.model_dump(mode="json"), "status": "paused", "finish_reason": "tool"}
    await put(client, entry("1-0", "finished", json.dumps(later)))
    outcome = await runner_of(ScriptedEngine(), client, "w1", cancel_poll_s=1).run(order())
    assert isinstance(outcome, Done)
    assert (outcome.result.status, outcome.result.finish_reason) == ("paused", "tool")


# -- what cannot be a job's stream

NO_EVENTS = "its entries are no events"
NO_OBJECT = "its entries hold data that is no JSON object"
NO_ORDER = "its entries do not follow on each other"
MALFORMED = {
    "other fields": (NO_EVENTS, [entry("1-0", "started", STARTED), (b"1-1", {b"hello": b"world"})]),
    "no data": (NO_EVENTS, [(b"1-0", {b"type": b"started"})]),
    "no JSON": (NO_OBJECT, [entry("1-0", "started", "{")]),
    "no object": (NO_OBJECT, [entry("1-0", "planned", "[]")]),
    "more than an object": (NO_OBJECT, [entry("1-0", "tokens", f'{TOKENS},"x":1')]),
    "text and no object": (NO_OBJECT, [entry("1-0", "tokens", '"a"')]),
    "nested too deeply": (NO_OBJECT, [entry("1-0", "planned", "[" * 100_000)]),
    "a type that is no text": (NO_EVENTS, [entry("1-0", b"\xff", "{}")]),
    "data that is no text": (NO_EVENTS, [entry("1-0", "planned", b'{"a":"\xff"}')]),
    "a gap": (NO_ORDER, [entry("1-0", "tokens", TOKENS), entry("1-2", "tokens", TOKENS)]),
    "no beginning": (NO_ORDER, [entry("1-1", "tokens", TOKENS)]),
    "something after the end": (
        NO_ORDER,
        [entry("1-0", "finished", ENDED.model_dump_json()), entry("2-1", "planned", "{}")],
    ),
    "something after an end that cannot be read": (
        NO_ORDER,
        [entry("1-0", "failed", "{}"), entry("2-1", "planned", "{}")],
    ),
    "an attempt that nobody makes": (NO_ORDER, [entry(f"{MAX_ATTEMPT + 1}-0", "tokens", TOKENS)]),
}


@pytest.mark.parametrize(("why", "entries"), MALFORMED.values(), ids=MALFORMED)
async def test_what_cannot_be_a_jobs_stream_is_deleted_and_the_log_says_why(client, caplog, why, entries):
    with pytest.raises(InvalidRequest) as refused:
        parse_history(entries)
    assert str(refused.value) == why
    await put(client, *entries)
    assert await read(client) == History()
    assert not await client.exists(KEYS.events(JOB))
    assert caplog.messages == [f"job '{JOB}': what stands in place of its stream is deleted: {why}"]


@pytest.mark.parametrize("attempt", [MAX_ATTEMPT + 1, 2**64 - 1])
async def test_an_emptied_stream_whose_last_id_leaves_no_room_for_ours_is_deleted(real_client, caplog, attempt):
    await put(real_client, entry("1-0", "tokens", TOKENS), entry(f"{attempt}-0", "x", "{}"))
    await real_client.xtrim(KEYS.events(JOB), maxlen=0)
    assert await read(real_client) == History()
    assert not await real_client.exists(KEYS.events(JOB))
    assert caplog.messages[0].endswith(": its ids are of no worker's making")


@pytest.mark.parametrize("bounds", [{}, {"max_entries": 0}], ids=["read", "too large to be read"])
async def test_the_last_attempt_that_may_be_is_one(client, bounds):
    await put(client, entry(f"{MAX_ATTEMPT}-0", "tokens", TOKENS))
    assert (await read(client, **bounds)).last_attempt == MAX_ATTEMPT
    assert await client.xlen(KEYS.events(JOB)) == 1


async def test_whoever_waits_for_redis_says_whose_stream_it_reads(client, fake_server, caplog):
    fake_server.connected = False
    reading = asyncio.create_task(read(client))
    async with asyncio.timeout(60):
        while "waiting for Redis" not in caplog.text:
            await asyncio.sleep(0)
    fake_server.connected = True
    await reading
    assert f"reading the stream of job '{JOB}': waiting for Redis" in caplog.text


async def test_a_job_that_was_taken_away_is_left_alone_whatever_its_stream(client):
    await put(client, entry("1-0", "started", '{"attempt":1}'))
    await client.delete(KEYS.taken("w1"))
    runner = runner_of(ScriptedEngine(), client, "w1", cancel_poll_s=1)
    assert isinstance(await runner.run(order()), Superseded)
    assert await client.xlen(KEYS.events(JOB)) == 1


# -- what is drawn


async def test_a_seed_that_is_drawn_is_one_that_a_double_can_hold(client, monkeypatch):
    """JavaScript reads every number as a double: above 2**53 it shows another seed than the one that was used."""
    bounds = []
    monkeypatch.setattr("worker.run.transcript.secrets.randbelow", lambda bound: bounds.append(bound) or bound - 1)
    runner = runner_of(engine := ScriptedEngine(), client, "w1", cancel_poll_s=1)
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", finish="length")
    run.end()
    assert (await task).result.seed == 2**53 - 1
    assert bounds == [2**53]


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [{}, {"max_entries": 0}], ids=["read", "too large to be read"])
async def test_a_demoted_server_is_not_asked_whose_the_job_is(bounds):
    """It answers every read, from its past: the job would seem to be somebody else's, and nobody would run it."""
    with EmbeddedBroker() as broker, redis.Redis(port=broker.port) as server:
        server.xadd(KEYS.events(JOB), {"type": "started", "data": STARTED}, id="1-0")
        async with Redis(port=broker.port) as client:
            held = (await read_or_discard_history(client, KEYS, JOB, "w1", Outage(), **bounds)).held
            server.replicaof("127.0.0.1", 1)
            with pytest.raises(BrokerUnavailable, match="read-only"):
                await read_or_discard_history(client, KEYS, JOB, "w1", Outage(patience_s=0.0), **bounds)
    assert not held
