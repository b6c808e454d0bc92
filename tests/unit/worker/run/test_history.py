"""What a worker makes of the stream that it finds: what it keeps, what it refuses, and what it deletes."""

import asyncio
import json
import threading
from functools import partial

import pytest
import redis
from redis.asyncio import Redis

from producer.broker.embedded import EmbeddedBroker
from producer.broker.outage import Outage
from producer.contract import (
    BEFORE_FIRST,
    BrokerUnavailable,
    EventId,
    GenerationResult,
    InvalidRequest,
    Started,
    StartedData,
)
from worker.job import Done, Superseded
from worker.run import history, runner
from worker.run.event_log import EventLog, Moved
from worker.run.history import MAX_ATTEMPT, History, parse_history, read_or_discard_history

from ..scripted_engine import ScriptedEngine
from .runs import JOB, KEYS, begin, order, runner_of

STARTED = json.dumps({"attempt": 1, "worker": "w0", "model": "tiny", "prompt_tokens": 3, "seed": 7})
NEWER = json.dumps({**json.loads(STARTED), "engine": "static", "trace": {"id": "t", "spans": [1, None]}})
TOKENS = '{"index":0,"ids":[5],"text":"a"}'
ENDED = GenerationResult(job_id=JOB, status="finished", model="tiny", text="a", finish_reason="stop")


def entry(event_id: str, event_type: str | bytes, data: str | bytes) -> tuple[bytes, dict[bytes, bytes]]:
    as_bytes = (value.encode() if isinstance(value, str) else value for value in (event_type, data))
    return event_id.encode(), dict(zip((b"type", b"data"), as_bytes, strict=True))


async def put(client, *entries) -> None:
    for entry_id, fields in entries:
        await client.xadd(KEYS.events(JOB), fields, id=entry_id)


async def read(client, **bounds) -> History:
    return await read_or_discard_history(client, KEYS, JOB, "w1", Outage(), **bounds)


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
    assert "event 1-1" in outcome.result.error.message
    assert outcome.result.text == "a"
    stream = await client.xrange(KEYS.events(JOB))
    assert stream[:3] == written
    assert [(entry_id, fields[b"type"]) for entry_id, fields in stream[3:]] == [(b"2-3", b"failed")]
    assert engine.runs.empty()


async def test_an_end_that_cannot_be_read_is_an_end_all_the_same(client):
    written = [entry("1-0", "finished", '{"job_id":"job-1"}')]
    await put(client, *written)
    outcome = await runner_of(ScriptedEngine(), client, "w1", cancel_poll_s=1).run(order())
    assert isinstance(outcome, Done)
    assert outcome.result.status == "failed"
    assert await client.xrange(KEYS.events(JOB)) == written


async def test_a_job_that_finished_in_a_way_of_a_later_version_is_not_run_again(client):
    later = {**ENDED.model_dump(mode="json"), "status": "paused", "finish_reason": "tool"}
    await put(client, entry("1-0", "finished", json.dumps(later)))
    outcome = await runner_of(ScriptedEngine(), client, "w1", cancel_poll_s=1).run(order())
    assert isinstance(outcome, Done)
    assert (outcome.result.status, outcome.result.finish_reason) == ("paused", "tool")


# -- what cannot be a job's stream

MALFORMED = {
    "other fields": [entry("1-0", "started", STARTED), (b"1-1", {b"hello": b"world"})],
    "no data": [(b"1-0", {b"type": b"started"})],
    "no JSON": [entry("1-0", "started", "{")],
    "no object": [entry("1-0", "planned", "[]")],
    "more than an object": [entry("1-0", "tokens", f'{TOKENS},"x":1')],
    "text and no object": [entry("1-0", "tokens", '"a"')],
    "nested too deeply": [entry("1-0", "planned", "[" * 100_000)],
    "a type that is no text": [entry("1-0", b"\xff", "{}")],
    "data that is no text": [entry("1-0", "planned", b'{"a":"\xff"}')],
    "a gap": [entry("1-0", "tokens", TOKENS), entry("1-2", "tokens", TOKENS)],
    "no beginning": [entry("1-1", "tokens", TOKENS)],
    "something after the end": [entry("1-0", "finished", ENDED.model_dump_json()), entry("2-1", "planned", "{}")],
    "something after an end that cannot be read": [entry("1-0", "failed", "{}"), entry("2-1", "planned", "{}")],
    "an attempt that nobody makes": [entry(f"{MAX_ATTEMPT + 1}-0", "tokens", TOKENS)],
}


@pytest.mark.parametrize("entries", MALFORMED.values(), ids=MALFORMED)
async def test_what_cannot_be_a_jobs_stream_is_deleted(client, entries):
    with pytest.raises(InvalidRequest):
        parse_history(entries)
    await put(client, *entries)
    assert await read(client) == History()
    assert not await client.exists(KEYS.events(JOB))


@pytest.mark.parametrize("attempt", [MAX_ATTEMPT + 1, 2**64 - 1])
async def test_an_emptied_stream_whose_last_id_leaves_no_room_for_ours_is_deleted(real_client, attempt):
    await put(real_client, entry("1-0", "tokens", TOKENS), entry(f"{attempt}-0", "x", "{}"))
    await real_client.xtrim(KEYS.events(JOB), maxlen=0)
    assert await read(real_client) == History()
    assert not await real_client.exists(KEYS.events(JOB))


# -- its size comes first


async def test_a_long_stream_is_parsed_beside_the_event_loop(client, monkeypatch):
    """Else the worker is deaf for seconds: its heartbeat waits, and so does what tells it to stop."""
    parsed_on = []
    real = history.parse_history
    monkeypatch.setattr(
        history, "parse_history", lambda raw: parsed_on.append(threading.current_thread()) or real(raw)
    )
    await put(client, *(entry(f"1-{seq}", "tokens", TOKENS) for seq in range(2)))
    await read(client)
    monkeypatch.setattr(history, "MANY_ENTRIES", 1)
    assert len((await read(client)).events) == 2
    assert [thread is threading.main_thread() for thread in parsed_on] == [True, False]


@pytest.fixture
async def real_client(broker: EmbeddedBroker, redis_client: redis.Redis):
    redis_client.rpush(KEYS.taken("w1"), JOB)
    client = Redis(port=broker.port)
    yield client
    await client.aclose()


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
    assert (past.entries, past.events, past.after, past.held) == ((), (), EventId(1, 49), True)


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


async def test_a_job_whose_stream_was_not_read_has_its_end_in_an_emptied_redis_too(real_client):
    log = EventLog(
        real_client,
        KEYS,
        JOB,
        (),
        worker="w1",
        as_owner=False,
        live_ttl_s=100,
        result_ttl_s=100,
        after=EventId(4, 10),
    )
    log.end(ENDED)
    with pytest.raises(Moved):
        await asyncio.wait_for(log.run(), 20)  # it is read again, and then there is nothing that is too large
    assert (await read(real_client)).after == BEFORE_FIRST


async def test_a_log_behind_a_stream_that_was_not_read_appends_as_any_other(real_client):
    await put(real_client, *(entry(f"4-{seq}", "x", "{}") for seq in range(11)))
    log = EventLog(
        real_client,
        KEYS,
        JOB,
        (),
        worker="w1",
        as_owner=False,
        live_ttl_s=100,
        result_ttl_s=100,
        after=EventId(4, 10),
    )
    writer = asyncio.create_task(log.run())
    log.start(Started(data=StartedData.model_validate_json(STARTED)))
    async with asyncio.timeout(20):
        while await real_client.xlen(KEYS.events(JOB)) < 12:
            await asyncio.sleep(0)
        log.end(ENDED)
        await writer
    assert [entry_id for entry_id, _ in await real_client.xrange(KEYS.events(JOB))][11:] == [b"5-11", b"5-12"]


async def test_a_large_stream_with_ids_of_no_workers_making_is_deleted(real_client):
    await put(real_client, *(entry(f"{MAX_ATTEMPT + 1}-{seq}", "x", "{}") for seq in range(50)))
    assert await read(real_client, max_entries=40) == History()
    assert not await real_client.exists(KEYS.events(JOB))


async def test_a_server_that_keeps_the_size_from_us_leaves_the_number_of_entries_as_the_bound(client):
    with pytest.raises(redis.ResponseError):
        await client.memory_usage(KEYS.events(JOB))
    await put(client, *(entry(f"1-{seq}", "x", "{}") for seq in range(50)))
    assert (await read(client, max_entries=50)).fault is None
    assert (await read(client, max_entries=49)).fault is not None


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
    monkeypatch.setattr("worker.run.attempt.secrets.randbelow", lambda bound: bounds.append(bound) or bound - 1)
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
