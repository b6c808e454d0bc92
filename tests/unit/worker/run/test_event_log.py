"""The event log: in order, once each, and only while the job is ours."""

import asyncio
import json

import pytest
import redis
from fakeredis import FakeAsyncRedis, FakeServer

from producer.contract import (
    Entry,
    EventId,
    GenerationResult,
    Keys,
    Started,
    StartedData,
    TokenLogprob,
    Tokens,
    parse_entry,
)
from worker.run.event_log import EventLog, Fenced, Moved

KEYS = Keys()
JOB = "job-1"


def started(attempt: int, worker: str = "w1") -> Started:
    return Started(data=StartedData(attempt=attempt, worker=worker, model="tiny", prompt_tokens=3, seed=7))


def finished(text: str = "ab", worker: str = "w1") -> GenerationResult:
    return GenerationResult(
        job_id=JOB, status="finished", model="tiny", text=text, finish_reason="stop", worker=worker
    )


@pytest.fixture
async def client(fake_server: FakeServer):
    client = FakeAsyncRedis(server=fake_server)
    yield client
    await client.aclose()


def log_of(client, history=(), *, as_owner: bool = False, **options) -> EventLog:
    history = [Entry.of(*streamed) for streamed in history]
    ttls = {"live_ttl_s": 1000, "result_ttl_s": 100}
    return EventLog(client, KEYS, JOB, history, worker="w1", as_owner=as_owner, **ttls, **options)


async def history(client):
    return [parse_entry(entry_id, fields) for entry_id, fields in await client.xrange(KEYS.events(JOB))]


async def ids(client) -> list[str]:
    return [str(streamed.id) for streamed in await history(client)]


async def write(log: EventLog) -> None:
    """Append all that was added, as the runner's writer task does."""
    log.close()
    await log.run()


async def drained(log: EventLog) -> None:
    """Until all that was added stands in the stream, and the log knows; its `run` runs beside."""
    async with asyncio.timeout(5):
        while log._open is not None or log._appended < len(log._entries):
            await asyncio.sleep(0)


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


async def test_a_running_stream_outlives_the_result_ttl(client):
    log = log_of(client)
    log.start(started(1))
    await write(log)
    assert await client.ttl(KEYS.events(JOB)) > 100


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


class Lossy:
    """A client whose scripts run, and whose answers are lost now and then."""

    def __init__(self, client, lose: set[int]) -> None:
        self._client, self._lose, self.calls = client, lose, 0

    async def evalsha(self, *args):
        return await self._answer(self._client.evalsha(*args))

    async def eval(self, *args):
        return await self._answer(self._client.eval(*args))

    async def _answer(self, call):
        answer = await call
        self.calls += 1
        if self.calls in self._lose:
            raise redis.ConnectionError("the answer was lost")
        return answer


@pytest.mark.parametrize("lose", [{1}, {2}, {3}, {1, 2, 3, 4}])
async def test_an_append_whose_answer_was_lost_is_not_repeated(client, lose):
    log = log_of(Lossy(client, lose))
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    await drained(log)
    log.tokens(0, [5], "a")
    await drained(log)
    log.end(finished())
    await writer
    assert await ids(client) == ["1-0", "1-1", "1-2"]


async def test_a_redis_that_comes_back_empty_gets_the_stream_again_from_its_start(client):
    first = log_of(client)
    first.start(started(1))
    first.tokens(0, [5], "a")
    await write(first)
    log = log_of(client, await history(client))
    writer = asyncio.create_task(log.run())
    log.start(started(2))
    await drained(log)
    before = await client.xrange(KEYS.events(JOB))
    await client.flushall()
    log.tokens(1, [6], "b")
    log.end(finished())
    await writer
    after = await client.xrange(KEYS.events(JOB))
    assert after[: len(before)] == before
    assert await ids(client) == ["1-0", "1-1", "2-2", "2-3", "2-4"]


async def test_a_redis_that_lost_its_last_writes_gets_them_again(client):
    log = log_of(client)
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    await drained(log)
    log.tokens(0, [5], "a")
    await drained(log)
    [(first_id, fields), _] = await client.xrange(KEYS.events(JOB))
    await client.flushall()
    await client.xadd(KEYS.events(JOB), fields, id=first_id)
    log.tokens(1, [6], "b")
    log.close()
    await writer
    assert await ids(client) == ["1-0", "1-1", "1-2"]


async def test_in_a_redis_that_came_back_empty_somebody_elses_entry_fences_off(client):
    """Its place is one that no event of ours has."""
    log = log_of(client)
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    log.tokens(0, [5], "a")
    await drained(log)
    await client.flushall()
    await client.xadd(KEYS.events(JOB), {"type": "tokens", "data": "{}"}, id="0-999")
    log.tokens(1, [6], "b")
    log.close()
    with pytest.raises(Fenced):
        await writer


async def test_events_wait_in_memory_while_redis_is_away(client, fake_server):
    log = log_of(client)
    writer = asyncio.create_task(log.run())
    log.start(started(1))
    await drained(log)
    fake_server.connected = False
    log.tokens(0, [5], "a")
    await asyncio.sleep(0)  # the writer tries, and fails
    for index in range(1, 50):
        log.tokens(index, [index], "x")
    fake_server.connected = True
    log.end(finished())
    await writer
    events = [streamed.event for streamed in await history(client)]
    joined = [token for event in events if isinstance(event, Tokens) for token in event.data.ids]
    assert joined == [5, *range(1, 50)]


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
