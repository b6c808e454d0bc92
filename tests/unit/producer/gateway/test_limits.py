"""Limits of a key, over all gateways, and when to come again."""

import asyncio
import time
from pathlib import Path

import httpx2
import pytest

from producer.contract import Keys
from producer.testing import ScriptedWorker

from .conftest import Door, OpenDoor, opened
from .test_entrance import bearer, keys_file
from .test_resuming import until

CHAT = "/v1/chat/completions"


async def ask(door: Door, name: str = "alice", **fields) -> httpx2.Response:
    return await door.http.post(CHAT, json=Door.body("Hi", **fields), headers=bearer(name))


def left(worker: ScriptedWorker, limit: str) -> float:
    return float(worker.client.hget(Keys().limits("alice"), limit))


def says_context(worker: ScriptedWorker, tokens: int) -> None:
    """So many fit into the model's."""
    [record] = worker.client.smembers("rq:workers:generate.tiny")
    worker.client.hset(record, "context_length", tokens)


async def test_requests_are_counted_over_all_gateways(open_door: OpenDoor, tmp_path: Path):
    keys = keys_file(tmp_path, "alice", "bob", requests_per_minute=2)
    first, second = await open_door(api_keys=keys), await open_door(api_keys=keys)
    assert [(await ask(door)).status_code for door in (first, second)] == [200, 200]
    refused = await ask(first)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert "2 requests a minute" in refused.text
    assert (await ask(second, "bob")).status_code == 200


async def test_tokens_are_counted_over_all_gateways(open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path):
    keys = keys_file(tmp_path, "alice", "bob", tokens_per_minute=1_000)
    first, second = await open_door(api_keys=keys), await open_door(api_keys=keys)
    with worker.paused():
        asking = asyncio.create_task(ask(first, max_tokens=900))
        await until(lambda: worker.client.exists(Keys().limits("alice")) and left(worker, "tokens") < 200)
        refused = await ask(second, max_tokens=900)
        assert (refused.status_code, "1000 tokens a minute" in refused.text) == (429, True)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        of_bob = asyncio.create_task(ask(second, "bob", max_tokens=900))
        await until(lambda: worker.client.exists(Keys().limits("bob")))
    assert (await asking).status_code == (await of_bob).status_code == 200


async def test_open_streams_of_a_killed_gateway_free_themselves(
    open_live_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nobody tells of their end, and nobody that they are open still: so each has a time at which it is over."""
    monkeypatch.setattr("producer.gateway.visits.OPEN_MS", 10**9)  # to say so, it would be its turn in days
    monkeypatch.setattr("producer.gateway.visits.LEAVE_S", 0.01)
    keys = keys_file(tmp_path, "alice", requests_at_once=1)
    killed, other = await open_live_door(api_keys=keys), await open_live_door(api_keys=keys)

    async def say_nothing(*_: object) -> None: ...

    monkeypatch.setattr(killed.gateway.visits, "end", say_nothing)
    name = Keys().open_requests("alice")
    with worker.paused():
        asking = asyncio.create_task(ask(killed, stream=True))
        await until(lambda: worker.client.zcard(name))
        assert (await ask(other, stream=True)).status_code == 429
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        [(request_id, over_at_ms)] = worker.client.zrange(name, 0, -1, withscores=True)
        now_s, _ = worker.client.time()
        assert over_at_ms <= (now_s + 1) * 1000 + 30_000
        worker.client.zadd(name, {request_id: (now_s - 1) * 1000})  # it has come
    assert (await ask(other, stream=True)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_what_an_answer_has_not_taken_is_given_back(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path, stream: bool
):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", tokens_per_minute=60_000_000))
    says_context(worker, 60_000_000)
    worker.answers("Hi", "four")
    assert (await ask(door, max_tokens=30_000_000, stream=stream)).status_code == 200
    await until(lambda: left(worker, "tokens") > 59_999_000)
    with worker.paused():
        asking = asyncio.create_task(ask(door, max_tokens=60_000_000))
        await until(lambda: left(worker, "tokens") < 1_000)
        refused = await ask(door, max_tokens=60_000_000)
        assert (refused.status_code, "60000000 tokens a minute" in refused.text) == (429, True)
    assert (await asking).status_code == 200


@pytest.mark.parametrize("logprobs", [False, True])
async def test_a_job_that_fails_gives_back_what_it_has_not_taken(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path, logprobs: bool
):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", tokens_per_minute=60_000_000))
    says_context(worker, 60_000_000)
    worker.fails("Hi", "engine_error", "it broke", after="four")
    assert (await ask(door, max_tokens=50_000_000, logprobs=logprobs)).status_code == 500
    assert left(worker, "tokens") > 59_999_000


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_asked_for_again_is_paid_for_once(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path, stream: bool
):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", tokens_per_minute=1_000))
    began_at = time.monotonic()
    worker.answers("Hi", "x" * 600)
    says_context(worker, 10_000)
    headers = {**bearer("alice"), "Idempotency-Key": "one"}
    for url, body in (
        (CHAT, Door.body("Hi", max_tokens=700)),
        ("/v1/responses", {"model": "tiny", "input": "Hi"}),
    ):
        answers = [await door.http.post(url, json=body | {"stream": stream}, headers=headers) for _ in range(3)]
        assert [each.status_code for each in answers] == [200] * 3
        headers["Idempotency-Key"] = "two"
        worker.answers("Hi", "x" * 100)
    filled_up = 1_000 / 60 * (time.monotonic() - began_at)
    assert 0 <= left(worker, "tokens") - (1_000 - 600 - 100) + 60 <= 120 + filled_up


async def test_who_leaves_before_the_end_gets_nothing_back(
    open_live_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path
):
    door = await open_live_door(
        api_keys=keys_file(tmp_path, "alice", tokens_per_minute=60_000, requests_at_once=1)
    )
    with worker.paused():
        asking = asyncio.create_task(ask(door, max_tokens=50_000))
        await until(lambda: worker.client.exists(Keys().open_requests("alice")))
        await until(lambda: worker.client.keys("rq:job:*"))
        asking.cancel()
        await until(lambda: not worker.client.exists(Keys().open_requests("alice")))
    assert left(worker, "tokens") < 60_000 - 1_000


@pytest.mark.parametrize(("context", "debt"), [(None, 1_000_000), (2_000, 2_000)])
async def test_what_no_context_holds_locks_nobody_out(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path, context: int | None, debt: int
):
    """A client that asks for 2**63 tokens, and leaves, was locked out for as many; of more, for ever."""
    door = await open_door(api_keys=keys_file(tmp_path, "alice", tokens_per_minute=1_000))
    if context is not None:
        says_context(worker, context)
    with worker.paused():
        asking = asyncio.create_task(ask(door, max_tokens=10**30))
        await until(lambda: worker.client.llen("rq:queue:generate.tiny@alice"))
        assert left(worker, "tokens") == pytest.approx(1_000 - debt, abs=100)
        assert worker.client.pttl(Keys().limits("alice")) > 0
    assert (await asking).status_code == 200


async def test_requests_at_once(open_live_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path):
    keys = keys_file(tmp_path, "alice", "bob", requests_at_once=2)
    first, second = await open_live_door(api_keys=keys), await open_live_door(api_keys=keys)
    with worker.paused():
        waiting = [asyncio.create_task(ask(door)) for door in (first, second)]
        await until(lambda: worker.client.zcard(Keys().open_requests("alice")) == 2)
        refused = await ask(first)
        assert (refused.status_code, "2 requests at once" in refused.text) == (429, True)
        others = asyncio.create_task(ask(first, "bob"))
        await until(lambda: worker.client.zcard(Keys().open_requests("bob")) == 1)
        waiting[0].cancel()
        await until(lambda: worker.client.zcard(Keys().open_requests("alice")) == 1)
    assert (await others).status_code == (await waiting[1]).status_code == 200
    assert (await ask(second, stream=True)).status_code == 200
    await until(lambda: not worker.client.exists(Keys().open_requests("alice")))


async def test_what_is_refused_or_fails_counts_as_open_no_more(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path
):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", requests_at_once=1), max_queued=1)
    worker.fails("Hi", "engine_error", "it broke")
    for fields in ({}, {"stream": True}, {"n": 3}, {"seed": -1}):
        assert (await ask(door, **fields)).status_code in (200, 400, 429, 500)
        assert not worker.client.exists(Keys().open_requests("alice"))


async def test_a_gateway_that_ends_waits_for_requests_to_say_so(worker: ScriptedWorker, tmp_path: Path):
    """It cuts them, and then closes its producer: places stayed taken, and some were told of an error of it."""
    keys = keys_file(tmp_path, "alice", requests_at_once=1)
    async with opened(api_keys=keys) as door:
        assert door.gateway.api_keys is not None
        visit = await door.gateway.visits.begin(door.gateway.api_keys.keys[0])
        assert worker.client.zcard(Keys().open_requests("alice")) == 1

        async def unwind() -> None:
            await asyncio.sleep(0.1)
            await visit.aclose()

        ending = asyncio.create_task(unwind())
    await ending
    assert worker.client.zcard(Keys().open_requests("alice")) == 0


async def test_an_open_request_is_said_to_be_open_still(
    open_live_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("producer.gateway.visits.OPEN_MS", 30)
    door = await open_live_door(api_keys=keys_file(tmp_path, "alice", requests_at_once=1))
    with worker.paused():
        asking = asyncio.create_task(ask(door))
        name = Keys().open_requests("alice")
        await until(lambda: worker.client.zcard(name))
        before = worker.client.zrange(name, 0, -1, withscores=True)[0][1]
        await until(lambda: worker.client.zrange(name, 0, -1, withscores=True)[0][1] > before)
    assert (await asking).status_code == 200


async def test_a_full_queue_says_when_the_next_job_is_taken(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door(max_queued=1)
    with worker.paused():
        unknown = await door.chat("Hi", n=2)
        record = next(iter(worker.client.smembers("rq:workers")))
        worker.client.hset(record, mapping={"job_seconds": 80, "busy_seconds": 10, "state": "busy"})
        door.gateway.producer._operations._rosters.clear()
        told = await door.chat("Hi", n=2)
    assert [(each.status_code, each.headers["retry-after"]) for each in (unknown, told)] == [
        (429, "5"),
        (429, "70"),
    ]
