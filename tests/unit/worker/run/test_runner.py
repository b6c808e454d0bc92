"""The runner: from a job and what an engine says to a stream, a result and an outcome."""

import asyncio
import subprocess
import sys

import pytest

from producer.broker.outage import Outage
from producer.contract import (
    Cancelled,
    Failed,
    Finished,
    InvalidRequest,
    Started,
    Tokens,
)
from worker.engine_process.protocol import RunFailed
from worker.job import Done, PutBack, Retry, Superseded
from worker.run.history import read_or_discard_history

from ..scripted_engine import ScriptedEngine, step
from .runs import JOB, KEYS, begin, events, joined, order, result, runner_of, until_written


@pytest.mark.parametrize("module", ["run.runner", "intake"])
def test_neither_the_order_nor_its_runner_brings_the_engines_process_along(module):
    code = f"import sys, worker.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"torch", "worker.engine_process.process", "worker.engine_process.server"} & set(loaded) == set()
    assert module == "run.runner" or "worker.run.runner" not in loaded


async def test_a_finished_job_has_its_events_in_order_and_its_result(client, runner, engine):
    task, run = await begin(runner, engine)
    run.accept(prompt_tokens=3)
    run.steps("你", "", "好", finish="stop")
    run.end()
    outcome = await task
    stream = await events(client)
    assert isinstance(outcome, Done)
    assert isinstance(stream[0], Started)
    assert isinstance(stream[-1], Finished)
    assert joined(stream) == (outcome.result.text, list(outcome.result.token_ids)) == ("你好", [0, 1, 2])
    assert outcome.result == await result(client) == stream[-1].data
    assert outcome.result.usage.prompt_tokens == 3
    assert outcome.result.usage.completion_tokens == 3
    assert outcome.result.timings.prefill_ms == 1.5
    assert (outcome.result.attempts, outcome.result.worker) == (1, "w1")


async def test_a_job_without_a_seed_draws_one_and_keeps_it_in_the_stream(client, runner, engine):
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", finish="length")
    run.end()
    outcome = await task
    assert (await events(client))[0].data.seed == run.seed == outcome.result.seed


async def test_a_refusal_of_the_engine_fails_the_job_with_its_code(client, runner, engine):
    task, run = await begin(runner, engine)
    run.say(RunFailed(code="prompt_too_long", message="4000 tokens, and the context holds 1024"))
    outcome = await task
    assert outcome.result.error.code == "prompt_too_long"
    assert isinstance((await events(client))[-1], Failed)


async def test_cancelling_by_the_key_alone_keeps_the_text_and_what_was_held_back(client, runner, engine):
    task, run = await begin(runner, engine)
    run.tail = "�"
    run.accept()
    run.steps("a", "b")
    await client.set(KEYS.cancel(JOB), "1")
    outcome = await task
    stream = await events(client)
    assert isinstance(stream[-1], Cancelled)
    assert outcome.result.status == outcome.result.finish_reason == "cancelled"
    assert joined(stream)[0] == outcome.result.text == "ab�"
    assert not await client.exists(KEYS.cancel(JOB))


async def test_a_stop_command_cancels_the_job_that_it_was_for_and_no_other(client, engine):
    runner = runner_of(engine, client, "w1", cancel_poll_s=30)
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a")
    await until_written(client, 2)
    runner.look_for_cancel()  # for the job before, which has ended
    run.steps("b")
    await until_written(client, 3)
    assert run.stopped is None
    await client.set(KEYS.cancel(JOB), "1")
    runner.look_for_cancel()
    assert (await asyncio.wait_for(task, 60)).result.status == "cancelled"


async def test_a_job_past_its_timeout_fails_with_the_text_so_far(client, runner, engine):
    task, run = await begin(runner, engine, order(timeout_s=0.5))
    run.accept()
    run.steps("a")
    outcome = await task
    assert outcome.result.error.code == "timeout"
    assert outcome.result.error.message.endswith("0.5 s: raise timeout_s or lower max_new_tokens")
    assert outcome.result.text == "a"
    assert run.stopped is True


async def test_a_timeout_that_will_be_retried_is_no_end_and_releases_no_held_back_text(client, runner, engine):
    task, run = await begin(runner, engine, order(timeout_s=0.5, can_retry=True))
    run.accept()
    run.steps("a")
    outcome = await task
    assert isinstance(outcome, Retry)
    assert run.stopped is False
    assert not await client.exists(KEYS.result(JOB))


async def test_shutdown_puts_the_job_back_with_all_tokens_published(client, runner, engine):
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", "b")
    while runner.attempt is None or runner.attempt.progress.tokens < 2:
        await asyncio.sleep(0)
    runner.abort("shutdown")
    assert (await task) == PutBack("the worker is shutting down")
    assert run.stopped is False
    assert joined(await events(client)) == ("ab", [0, 1])
    assert not await client.exists(KEYS.result(JOB))


async def test_the_next_attempt_goes_on_after_the_last_published_token(client, runner, engine):
    first, run = await begin(runner, engine)
    run.accept()
    run.steps("a", "b")
    while runner.attempt is None or runner.attempt.progress.tokens < 2:
        await asyncio.sleep(0)
    runner.abort("shutdown")
    await first
    second, again = await begin(runner, engine)
    assert (again.resumed_ids, again.seed) == ([0, 1], run.seed)
    again.accept()
    again.steps("c", "d", finish="stop")
    again.end()
    outcome = await second
    stream = await events(client)
    assert joined(stream) == (outcome.result.text, list(outcome.result.token_ids)) == ("abcd", [0, 1, 2, 3])
    assert [event.data.resumed_tokens for event in stream if isinstance(event, Started)] == [0, 2]
    assert outcome.result.attempts == 2


async def test_a_job_whose_last_published_token_ended_it_is_only_finished(client, runner, engine):
    first, run = await begin(runner, engine)
    run.accept()
    run.steps("a")
    while runner.attempt is None or runner.attempt.progress.tokens < 1:
        await asyncio.sleep(0)
    runner.abort("shutdown")
    await first
    second, again = await begin(runner, engine)
    again.accept(finish_reason="stop")
    again.end()
    outcome = await second
    assert (outcome.result.status, outcome.result.finish_reason, outcome.result.text) == ("finished", "stop", "a")


async def test_a_worker_that_was_taken_over_stops_its_engine_and_writes_nothing(client, runner, engine):
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a")
    await until_written(client, 2)
    heir = runner_of(ScriptedEngine(), client, "w2", cancel_poll_s=1)
    takeover, its_run = await begin(heir, heir.engine)
    its_run.accept()
    await until_written(client, 3)
    run.steps("late")
    assert isinstance(await task, Superseded)
    assert run.stopped is False, "nobody would see the text that it holds back"
    its_run.steps("b", finish="stop")
    its_run.end()
    assert (await takeover).result.text == "ab"
    assert joined(await events(client))[0] == "ab"


async def test_a_worker_that_lost_its_job_before_it_began_does_not_begin(client, runner, engine, caplog):
    """Stopped between the pop and the start; a sweep took it for dead, and the next worker's attempt runs."""
    await client.lrem(KEYS.taken("w1"), 1, JOB)
    assert isinstance(await runner.run(order()), Superseded)
    assert engine.runs.empty()
    assert not await client.exists(KEYS.events(JOB))
    assert [record.job_id for record in caplog.records] == [JOB]


async def test_a_job_that_had_no_stream_is_begun_without_a_look_at_one(client, runner, engine, monkeypatch):
    """Which saves each new job a round trip before its first token."""
    monkeypatch.setattr(runner, "_history", None)
    task, run = await begin(runner, engine, order(has_stream=False))
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    assert (await task).result.text == "a"
    assert [event.type for event in await events(client)] == ["started", "tokens", "finished"]


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_worker_that_lost_a_new_job_writes_nothing(client, runner, engine, has_begun):
    """Stopped after the take, when there was no stream yet; the next worker has taken the job, or begun it."""
    await client.lrem(KEYS.taken("w1"), 1, JOB)
    await client.hset(f"rq:job:{JOB}", mapping={"status": "queued", "worker_name": ""})  # as a sweep leaves it
    heir = runner_of(ScriptedEngine(), client, "w2", cancel_poll_s=1)
    if has_begun:
        takeover, its_run = await begin(heir, heir.engine, order(has_stream=False))
        its_run.accept()
        await until_written(client, 1)
    task, run = await begin(runner, engine, order(has_stream=False))
    run.accept()
    run.steps("late")
    assert isinstance(await task, Superseded)
    if not has_begun:
        takeover, its_run = await begin(heir, heir.engine, order(has_stream=False))
        its_run.accept()
    its_run.steps("b", finish="stop")
    its_run.end()
    assert (await takeover).result.attempts == 1
    assert joined(await events(client))[0] == "b"


async def test_an_engine_that_is_killed_because_the_worker_leaves_has_not_died_over_the_job(
    client, runner, engine
):
    task, run = await begin(runner, engine)
    run.die()
    runner.abort("shutdown")
    assert (await task) == PutBack("the engine died", engine_died=False)


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_job_over_which_the_engine_died_is_put_back_as_one(client, runner, engine, accepted):
    task, run = await begin(runner, engine)
    if accepted:
        run.accept()
        run.steps("a")
    run.die()
    assert (await task) == PutBack("the engine died", engine_died=True)
    assert joined(await events(client))[0] == ("a" if accepted else "")
    assert not await client.exists(KEYS.result(JOB))


async def test_decoding_goes_on_while_redis_is_away(client, runner, engine, fake_server):
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a")
    await until_written(client, 2)
    fake_server.connected = False
    run.steps("b", "c", finish="stop")
    run.end()
    while runner.attempt.progress.tokens < 3:
        await asyncio.sleep(0)
    fake_server.connected = True
    outcome = await task
    assert joined(await events(client))[0] == outcome.result.text == "abc"


async def test_a_job_that_was_given_to_another_while_it_ran_gets_nothing_more_from_here(client, runner, engine):
    """A sweep took the worker for dead; nobody has written since, so that the ids tell nothing."""
    task, run = await begin(runner, engine)
    run.accept()
    await until_written(client, 1)
    await client.lrem(KEYS.taken("w1"), 1, JOB)
    await client.hset(f"rq:job:{JOB}", mapping={"status": "queued", "worker_name": ""})
    run.steps("late", finish="stop")
    run.end()
    assert isinstance(await task, Superseded)
    assert [event.type for event in await events(client)] == ["started"]


async def test_a_worker_without_a_job_has_none_to_stop(runner, engine):
    runner.abort("shutdown")
    runner.look_for_cancel()
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    assert (await task).result.status == "finished"
    runner.abort("shutdown")
    runner.look_for_cancel()


async def test_whoever_waits_for_redis_says_which_stream_is_cleared(client, runner, fake_server, caplog):
    fake_server.connected = False
    clearing = asyncio.create_task(runner._clear(JOB))
    async with asyncio.timeout(60):
        while "waiting for Redis" not in caplog.text:
            await asyncio.sleep(0)
    fake_server.connected = True
    assert await clearing is True
    assert f"clearing the stream of job '{JOB}': waiting for Redis" in caplog.text


async def test_an_append_that_waits_for_redis_is_part_of_the_process_outage(client, engine, fake_server):
    outage = Outage()
    runner = runner_of(engine, client, "w1", cancel_poll_s=3600, outage=outage)
    task, run = await begin(runner, engine)
    fake_server.connected = False
    run.accept()
    async with asyncio.timeout(60):
        while not outage.is_on:
            await asyncio.sleep(0)
    fake_server.connected = True
    run.steps("a", finish="stop")
    run.end()
    await task


async def test_a_finished_job_that_comes_again_is_left_alone(client, runner, engine):
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    first = await task
    assert first == Done(first.result)
    assert await runner.run(order()) == Done(first.result, is_news=False)
    assert engine.runs.empty()


async def test_a_failed_job_that_rq_enqueued_again_runs_again_from_its_start(client, runner, engine):
    await runner.refuse(JOB, "tiny", InvalidRequest("no"), result_ttl_s=60)
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    outcome = await task
    assert (outcome.result.status, outcome.result.attempts) == ("finished", 2)
    assert [event.type for event in await events(client)] == ["started", "tokens", "finished"]


async def test_a_worker_that_was_taken_over_before_it_cleared_the_stream_leaves_it_to_the_next(
    client, runner, engine, monkeypatch
):
    """It had read that the job failed and was enqueued again, and was stopped there; the next attempt runs."""
    await runner.refuse(JOB, "tiny", InvalidRequest("no"), result_ttl_s=60)
    heir = runner_of(ScriptedEngine(), client, "w2", cancel_poll_s=1)
    clear = runner._clear

    async def overtaken(job_id: str) -> bool:
        await client.lrem(KEYS.taken("w1"), 1, JOB)
        takeover, its_run = await begin(heir, heir.engine)
        its_run.accept()
        its_run.steps("a", finish="stop")
        its_run.end()
        await takeover
        return await clear(job_id)

    monkeypatch.setattr(runner, "_clear", overtaken)
    assert isinstance(await runner.run(order()), Superseded)
    assert engine.runs.empty()
    assert [event.type for event in await events(client)] == ["started", "tokens", "finished"]
    assert (await result(client)).text == "a"


@pytest.mark.parametrize("kind", ["stream", "list"])
@pytest.mark.parametrize("overtaken", [False, True])
async def test_what_stands_in_place_of_the_stream_is_deleted_and_not_what_has_come_since(
    client, monkeypatch, kind, overtaken
):
    """A worker that was stopped between its look and the deletion; the next one has begun the job's stream."""
    put = {
        "stream": lambda: client.xadd(KEYS.events(JOB), {"type": "no", "data": "event"}, id="1-0"),
        "list": lambda: client.rpush(KEYS.events(JOB), "foreign"),
    }
    await put[kind]()
    run_script = client.evalsha

    async def stopped_before(*args):
        if overtaken:
            await client.delete(KEYS.events(JOB))
            await client.xadd(KEYS.events(JOB), {"type": "started", "data": "{}"}, id="1-0")
        return await run_script(*args)

    monkeypatch.setattr(client, "evalsha", stopped_before)
    assert (await read_or_discard_history(client, KEYS, JOB, "w1", Outage())).events == ()
    assert await client.exists(KEYS.events(JOB)) == overtaken


async def test_logprobs_reach_the_stream(client, runner, engine):
    task, run = await begin(runner, engine)
    run.accept()
    first, second = (0, "a", None), (1, "b", "stop")
    for token_id, text, finish in (first, second):
        run.say(_step(token_id, text, finish))
    run.end()
    await task
    tokens = [event.data for event in await events(client) if isinstance(event, Tokens)]
    assert [entry.logprob for data in tokens for entry in data.logprobs] == [0.0, -1.0]


def _step(token_id, text, finish):
    return step(token_id, text, finish)._replace(logprob={"logprob": -float(token_id), "top": [[token_id, -0.5]]})


async def test_a_worker_that_died_after_clearing_the_stream_does_not_lose_the_job(client, runner, engine):
    """The stream is empty but remembers its last id: an attempt that began again at 1 would be refused."""
    await runner.refuse(JOB, "tiny", InvalidRequest("no"), result_ttl_s=60)
    await runner._clear(JOB)
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    assert (await task).result.attempts == 2
