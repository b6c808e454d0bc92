"""One worker's turn at a job: what its result says, how far it has come, and how a wish to cancel is seen."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis

from producer.contract import Markup
from worker.engine_process.protocol import RunFailed
from worker.job import Done, PutBack, Retry
from worker.run.attempt import Attempt
from worker.run.event_log import EventLog

from ..scripted_engine import step
from .runs import JOB, KEYS, begin, events, order, runner_of, until_written


def finish(run) -> None:
    """A token, and the end."""
    run.accept()
    run.steps("a", finish="stop")
    run.end()


# -- the result


async def test_a_call_that_two_attempts_write_is_in_the_result_and_the_stream_says_how_it_is_found(
    client, runner, engine
):
    markup = Markup(tool_calls="hermes")
    task, run = await begin(runner, engine)
    run.accept(markup=markup)
    run.steps('<tool_call>{"name": "f", "argu', "ments")
    await until_written(client, 2)
    runner.abort("shutdown")
    run.end()
    assert isinstance(await task, PutBack)
    task, run = await begin(runner_of(engine, client, "w2", cancel_poll_s=1), engine)
    run.accept(markup=markup)
    run.steps('": {}}</tool_', "call>", finish="stop")
    run.end()
    result = (await task).result
    assert [call.function.model_dump() for call in result.tool_calls] == [{"name": "f", "arguments": "{}"}]
    assert (result.finish_reason, result.content, result.status) == ("tool_calls", "", "finished")
    started = [event.data.markup for event in await events(client) if event.type == "started"]
    assert started == [markup, markup]


async def test_the_engine_is_given_the_request_as_it_came(runner, engine):
    task, run = await begin(runner, engine, order(request={"max_new_tokens": 3, "stop": ["x"]}))
    finish(run)
    await task
    assert run.request == {"prompt": "hi", "max_new_tokens": 3, "stop": ["x"]}


@pytest.mark.parametrize("by", ["a token", "the tokens of the attempt before"])
async def test_the_result_says_which_stop_string_it_was(runner, engine, by):
    task, run = await begin(runner, engine)
    if by == "a token":
        run.accept()
        run.say(step(0, "a", "stop", "END"))
    else:
        run.accept(finish_reason="stop", stop="END")
    run.end()
    assert (await task).result.stop == "END"


async def test_the_result_says_what_the_cache_held_and_how_long_each_part_took(runner, engine):
    task, run = await begin(runner, engine, order(queued_ms=12.5))
    begun = runner.attempt._clock.begun
    run.accept()
    for place, (text, finish_reason) in enumerate([("a", None), ("b", None), ("c", "stop")]):
        run.say(step(place, text, finish_reason)._replace(sampled_at=begun + 1 + place / 4))
    run.end(cached_tokens=2)
    result = (await task).result
    assert result.usage.cached_tokens == 2
    assert result.timings.model_dump() == {
        "queued_ms": 12.5,
        "prefill_ms": 1.5,
        "decode_ms": 500.0,
        "time_to_first_token_ms": 1000.0,
        "tokens_per_second": 4.0,
    }


async def test_a_job_that_the_engine_refused_before_it_began_says_who_had_it_and_with_what_seed(runner, engine):
    task, run = await begin(runner, engine)
    run.say(RunFailed(code="prompt_too_long", message="4000 tokens, and the context holds 1024"))
    result = (await task).result
    assert (result.status, result.finish_reason) == ("failed", "error")
    assert result.error.message == "4000 tokens, and the context holds 1024"
    assert (result.attempts, result.worker, result.seed) == (1, "w1", run.seed)
    assert (result.usage.prompt_tokens, result.usage.cached_tokens) == (0, 0)


async def test_an_engine_that_ends_without_a_reason_fails_the_job_and_says_what_to_do(runner, engine):
    task, run = await begin(runner, engine)
    run.accept()
    run.end()
    error = (await task).result.error
    assert error.code == "engine_error"
    assert error.message == "the engine stopped before the job's end and gave no reason: submit it again"


async def test_a_retry_knows_its_error(runner, engine):
    task, run = await begin(runner, engine, order(can_retry=True))
    run.say(RunFailed(code="out_of_memory", message="no room for 5 GiB"))
    outcome = await task
    assert isinstance(outcome, Retry)
    assert (outcome.error.code, str(outcome.error)) == ("out_of_memory", "no room for 5 GiB")


async def test_an_engine_that_died_before_it_had_begun_has_not_died_over_the_job(client, runner, engine):
    task, run = await begin(runner, engine)
    run.die(begun=False)
    assert await task == PutBack("the engine died", engine_died=False)
    assert await events(client) == []


async def test_the_log_names_the_job_over_which_the_engine_died(runner, engine, caplog):
    task, run = await begin(runner, engine)
    run.die()
    await task
    [record] = (each for each in caplog.records if each.name == "worker.run.attempt")
    assert (record.levelname, record.job_id) == ("ERROR", JOB)


# -- how far it has come


async def test_the_progress_goes_from_starting_by_prefill_to_decode(client, runner, engine):
    task, run = await begin(runner, engine)
    progress = runner.attempt.progress
    assert progress.as_dict() == {"phase": "starting", "tokens": 0, "tokens_per_second": None}
    run.accept()
    await until_written(client, 1)
    assert progress.as_dict() == {"phase": "prefill", "tokens": 0, "tokens_per_second": None}
    run.say(*(step(place, "a")._replace(sampled_at=place / 4) for place in range(3)))
    await until_written(client, 2)
    assert progress.as_dict() == {"phase": "decode", "tokens": 3, "tokens_per_second": 4.0}
    run.steps("a", finish="stop")
    run.end()
    await task


# -- cancelling


async def test_an_append_that_sees_the_wish_to_cancel_stops_the_job(client, engine):
    """Without a look of the attempt's own: that would come in an hour."""
    runner = runner_of(engine, client, "w1", cancel_poll_s=3600)
    task, run = await begin(runner, engine)
    run.accept()
    await until_written(client, 1)
    await client.set(KEYS.cancel(JOB), "1")
    run.steps("a")
    outcome = await asyncio.wait_for(task, 60)
    assert (outcome.result.status, outcome.result.finish_reason) == ("cancelled", "cancelled")
    assert run.stopped is True


@pytest.mark.parametrize("written", [False, True], ids=["at prefill", "between two tokens"])
async def test_a_job_of_which_nothing_is_written_is_cancelled_all_the_same(client, runner, engine, written):
    task, run = await begin(runner, engine)
    if written:
        run.accept()
        run.steps("a")
        await until_written(client, 2)
    await client.set(KEYS.cancel(JOB), "1")
    assert (await asyncio.wait_for(task, 60)).result.status == "cancelled"


async def attempt_of(client, engine, cancel_requested: Callable[[], Awaitable[bool]]) -> Attempt:
    ttls = {"live_ttl_s": 1000, "result_ttl_s": 100}
    log = EventLog(client, KEYS, JOB, (), worker="w1", as_owner=True, **ttls)
    return Attempt(
        order(), (), log, engine, worker_name="w1", cancel_requested=cancel_requested, cancel_poll_s=0.001
    )


async def test_a_look_that_redis_refuses_is_not_the_last(client, engine):
    answers = iter([redis.ConnectionError("away"), False, True])

    async def look() -> bool:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    attempt = await attempt_of(client, engine, look)
    outcome = await asyncio.wait_for(attempt.run(), 60)
    assert isinstance(outcome, Done)
    assert outcome.result.status == "cancelled"


async def test_nobody_looks_for_a_wish_once_the_attempt_is_over_even_where_the_client_swallows_its_end(
    client, engine
):
    looking = asyncio.Event()

    async def look() -> bool:
        looking.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return False
        return True

    before = asyncio.all_tasks()
    attempt = await attempt_of(client, engine, look)
    task = asyncio.create_task(attempt.run())
    await looking.wait()
    finish(await engine.runs.get())
    await task
    looking.clear()
    async with asyncio.timeout(60):
        while not looking.is_set() and asyncio.all_tasks() - before:
            await asyncio.sleep(0)
    assert not looking.is_set()
