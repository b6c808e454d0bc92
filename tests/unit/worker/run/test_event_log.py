"""The event log: in order, once each, and only while the job is ours."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import redis

from producer.contract import (
    EventId,
    GenerationResult,
    TokenLogprob,
    Tokens,
)
from worker.run.event_log import Fenced, Moved

from .logs import drained, finished, history, ids, log_of, started, write
from .runs import JOB, KEYS


async def test_ids_are_attempt_and_a_gapless_seq(client):
    log = log_of(client)
    log.start(started(1))
    log.tokens(0, [5], "a")
    log.end(finished())
    await log.run()
    assert await ids(client) == ["1-0", "1-1", "1-2"]


async def test_tokens_added_before_an_append_leave_as_one_event(client):
    log = log_of(client)
    log.start(started(1))
    log.tokens(0, [5], "a", [TokenLogprob(logprob=-1.0)])
    log.tokens(1, [6, 7], "bc", [TokenLogprob(logprob=-2.0), TokenLogprob(logprob=-3.0)])
    await write(log)
    tokens = (await history(client))[-1].event
    assert isinstance(tokens, Tokens)
    assert (tokens.data.index, tokens.data.ids, tokens.data.text) == (0, (5, 6, 7), "abc")
    assert [entry.logprob for entry in tokens.data.logprobs] == [-1.0, -2.0, -3.0]


async def test_the_result_stands_with_the_terminal_event_and_both_expire(client):
    await client.set(KEYS.cancel(JOB), "1")
    log = log_of(client)
    log.end(finished("xyz"))
    await log.run()
    assert GenerationResult.model_validate_json(await client.get(KEYS.result(JOB))).text == "xyz"
    assert 0 < await client.ttl(KEYS.result(JOB)) <= 100
    assert 0 < await client.ttl(KEYS.events(JOB)) <= 100
    assert not await client.exists(KEYS.cancel(JOB))


async def test_a_running_stream_outlives_the_result_ttl_and_has_no_result(client):
    log = log_of(client)
    log.start(started(1))
    await write(log)
    assert await client.ttl(KEYS.events(JOB)) > 100
    assert not await client.exists(KEYS.result(JOB))


async def test_the_channel_mirrors_the_stream(client):
    pubsub = client.pubsub()
    await pubsub.subscribe(KEYS.tokens(JOB))
    log = log_of(client)
    log.start(started(1))
    log.tokens(0, [5], "你")
    await write(log)
    messages = []
    while len(messages) < 2:
        message = await pubsub.get_message(timeout=60)
        assert message is not None
        if message["type"] == "message":
            messages.append(json.loads(message["data"]))
    assert [(m["id"], m["type"]) for m in messages] == [("1-0", "started"), ("1-1", "tokens")]
    assert messages[1]["data"] == {"index": 0, "ids": [5], "text": "你"}
    await pubsub.aclose()


async def test_a_later_attempt_goes_on_from_the_stream(client):
    first = log_of(client)
    first.start(started(1))
    first.tokens(0, [5], "a")
    await write(first)
    second = log_of(client, await history(client))
    second.start(started(2))
    await write(second)
    assert await ids(client) == ["1-0", "1-1", "2-2"]


async def test_an_attempt_that_was_taken_over_is_fenced_off(client):
    zombie = log_of(client)
    zombie.start(started(1))
    await write(zombie)
    heir = log_of(client, await history(client))
    heir.start(started(2))
    await write(heir)
    zombie._closed = False
    zombie.tokens(0, [5], "late")
    with pytest.raises(Fenced):
        await write(zombie)
    assert await ids(client) == ["1-0", "2-1"]


async def test_a_zombie_cannot_end_a_job_that_has_ended(client):
    zombie = log_of(client)
    zombie.start(started(1))
    await write(zombie)
    heir = log_of(client, await history(client))
    heir.end(finished("heir"))
    await heir.run()
    zombie._closed = False
    zombie.end(finished("zombie"))
    with pytest.raises(Fenced):
        await zombie.run()
    assert GenerationResult.model_validate_json(await client.get(KEYS.result(JOB))).text == "heir"


async def test_two_workers_cannot_claim_the_same_attempt(client):
    one, other = log_of(client), log_of(client)
    one.start(started(1, "one"))
    other.start(started(1, "other"))
    await write(one)
    with pytest.raises(Fenced) as refused:
        await write(other)
    assert not isinstance(refused.value, Moved), "it would claim the job again, and both would run it"
    assert [streamed.event.data.worker for streamed in await history(client)] == ["one"]


@pytest.mark.parametrize("foreign", [f"rq:job:{JOB}", KEYS.taken("w1")])
async def test_a_job_whose_owner_nobody_can_tell_any_more_has_its_end(client, foreign):
    """Somebody has put another kind of key there. RQ's bookkeeping counts the job as lost; a subscriber waits."""
    await client.hset(f"rq:job:{JOB}", mapping={"status": "started", "worker_name": "w2"})
    await client.set(foreign, "foreign")
    log = log_of(client, as_owner=True)
    log.end(finished())
    await log.run()
    assert await ids(client) == ["1-0"]


async def test_a_worker_that_was_swept_away_adds_nothing(client):
    await client.delete(KEYS.taken("w1"))
    await client.hset(f"rq:job:{JOB}", mapping={"status": "started", "worker_name": "w2"})
    log = log_of(client, as_owner=True)
    log.end(finished())
    with pytest.raises(Fenced):
        await log.run()
    assert await ids(client) == []


async def test_a_claim_sees_that_the_worker_before_went_on(client):
    slow = log_of(client)
    slow.start(started(1))
    await write(slow)
    heir = log_of(client, await history(client))
    slow._closed = False
    slow.tokens(0, [5], "one more")
    await write(slow)
    heir.start(started(2))
    with pytest.raises(Moved):
        await write(heir)
    assert await ids(client) == ["1-0", "1-1"]


async def test_a_job_that_is_run_again_after_its_end_begins_anew_above_its_old_ids(client):
    old = log_of(client)
    old.end(finished())
    await old.run()
    await client.xtrim(KEYS.events(JOB), maxlen=0, approximate=False)
    await client.delete(KEYS.result(JOB))
    again = log_of(client, after_attempt=1)
    again.start(started(2))
    await write(again)
    assert [streamed.id for streamed in await history(client)] == [EventId(2, 0)]
    late = log_of(client)
    late.start(started(1))
    with pytest.raises(Fenced):
        await write(late)


async def test_redis_itself_refuses_an_attempt_that_is_over_in_a_stream_that_was_cleared(client):
    """Nothing stands there that would tell; the stream's last id outlives its entries."""
    await client.xadd(KEYS.events(JOB), {"type": "failed", "data": "{}"}, id="1-0")
    await client.xtrim(KEYS.events(JOB), maxlen=0, approximate=False)
    late = log_of(client)
    late.start(started(1))
    with pytest.raises(Fenced) as refused:
        await write(late)
    assert isinstance(refused.value.__cause__, redis.ResponseError)
    assert await ids(client) == []


async def test_behind_a_stream_that_was_not_read_the_ids_go_on(client):
    await client.xadd(KEYS.events(JOB), {"type": "x", "data": "{}"}, id="4-10")
    log = log_of(client, after=EventId(4, 10))
    writer = asyncio.create_task(log.run())
    log.start(started(5))
    await drained(log)
    log.end(finished())
    await asyncio.wait_for(writer, 60)
    assert [entry_id for entry_id, _ in await client.xrange(KEYS.events(JOB))] == [b"4-10", b"5-11", b"5-12"]


@pytest.mark.parametrize("asked", [False, True])
async def test_an_append_tells_of_a_wish_to_cancel_whoever_wants_to_know(client, asked):
    if asked:
        await client.set(KEYS.cancel(JOB), "1")
    told = []
    log = log_of(client)
    log.on_cancel_requested = lambda: told.append(JOB)
    log.start(started(1))
    await write(log)
    assert told == [JOB] * asked


async def test_an_append_of_which_nobody_wants_to_know_is_one(client):
    await client.set(KEYS.cancel(JOB), "1")
    log = log_of(client)
    log.start(started(1))
    await write(log)
    assert await ids(client) == ["1-0"]


async def test_a_log_knows_how_long_ago_it_has_looked_for_a_wish(client, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("worker.run.event_log.time", SimpleNamespace(monotonic=lambda: now))
    log = log_of(client)
    assert not log.has_looked_within(10**9)
    log.start(started(1))
    await write(log)
    assert log.has_looked_within(2)
    now = 1001.5
    assert log.has_looked_within(2)
    now = 1002.5
    assert not log.has_looked_within(2)
