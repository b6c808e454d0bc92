"""A job whose request brings the beginning of its output along: its stream and its result begin with that."""

from producer.contract import EngineFacts, Started, Tokens
from worker.engine_process.protocol import StepMessage
from worker.job import PutBack

from ..scripted_engine import step
from .runs import begin, events, joined, order, result, runner_of, until_written

GIVEN = {"output_token_ids": [7, 8], "max_new_tokens": 5}


def begin_with_given(runner, engine):
    return begin(runner, engine, order(request=GIVEN))


async def test_the_first_event_holds_it_and_the_result_all(client, runner, engine):
    task, run = await begin_with_given(runner, engine)
    assert (run.resumed_ids, run.request["output_token_ids"]) == ([], [7, 8])
    run.accept(given_text="x")
    run.say(step(9, "yz"), step(10, "!", "length"))
    run.end()
    ended = (await task).result
    started, given, new, _ = stream = await events(client)
    assert started.data.resumed_tokens == 0
    assert (given.data.index, given.data.ids, given.data.text, given.data.logprobs) == (0, (7, 8), "x", None)
    assert (new.data.index, new.data.ids, new.data.text) == (2, (9, 10), "yz!")
    assert joined(stream) == (ended.text, list(ended.token_ids)) == ("xyz!", [7, 8, 9, 10])
    assert ended == await result(client)
    assert (ended.usage.completion_tokens, ended.finish_reason) == (4, "length")


async def test_it_counts_in_what_is_shown_of_the_progress(client, runner, engine):
    task, run = await begin_with_given(runner, engine)
    assert runner.attempt.progress.tokens == 0
    run.accept(given_text="x")
    await until_written(client, 2)
    assert runner.attempt.progress.as_dict() == {"phase": "prefill", "tokens": 2, "tokens_per_second": None}
    run.say(*(step(9 + place, "a")._replace(sampled_at=place / 4) for place in range(2)))
    await until_written(client, 3)
    assert runner.attempt.progress.as_dict() == {"phase": "decode", "tokens": 4, "tokens_per_second": 4.0}
    run.steps("a", finish="stop")
    run.end()
    await task


async def test_it_is_an_event_of_its_own_beside_log_probabilities(client, runner, engine):
    """Tokens that leave together are one event, and each of them has its log-probability there, or none has."""
    task, run = await begin_with_given(runner, engine)
    logprob = {"logprob": -0.5, "top": []}
    run.accept(given_text="x")
    run.say(StepMessage(1.0, 9, "y", "stop", None, logprob))
    run.end()
    await task
    given, new = (event.data for event in await events(client) if isinstance(event, Tokens))
    assert (given.ids, given.logprobs) == ((7, 8), None)
    assert (len(new.ids), len(new.logprobs)) == (1, 1)


async def test_the_next_attempt_goes_on_behind_all_of_it_and_publishes_none_again(client, runner, engine):
    task, run = await begin_with_given(runner, engine)
    run.accept(given_text="x")
    run.say(step(9, "y"))
    await until_written(client, 3)
    run.die()
    assert await task == PutBack("the engine died", engine_died=True)

    task, run = await begin_with_given(runner_of(engine, client, "w2", cancel_poll_s=1), engine)
    assert run.resumed_ids == [7, 8, 9]
    run.accept()
    run.say(step(10, "z", "stop"))
    run.end()
    ended = (await task).result
    stream = await events(client)
    assert [event.data.resumed_tokens for event in stream if isinstance(event, Started)] == [0, 3]
    assert joined(stream) == (ended.text, list(ended.token_ids)) == ("xyz", [7, 8, 9, 10])


async def test_an_attempt_before_that_only_began_has_published_none(client, runner, engine):
    task, run = await begin_with_given(runner, engine)
    run.die()
    assert isinstance(await task, PutBack)
    task, run = await begin_with_given(runner_of(engine, client, "w2", cancel_poll_s=1), engine)
    assert run.resumed_ids == []
    run.accept(given_text="x")
    run.say(step(9, "y", "stop"))
    run.end()
    assert (await task).result.token_ids == (7, 8, 9)
    assert joined(await events(client)) == ("xy", [7, 8, 9])


async def test_a_job_that_is_cancelled_keeps_it(client, runner, engine):
    task, run = await begin_with_given(runner, engine)
    run.accept(given_text="x")
    await until_written(client, 2)
    run.tail = "y"
    runner.attempt.abort("cancelled")
    ended = (await task).result
    assert (ended.status, ended.text, ended.token_ids) == ("cancelled", "xy", (7, 8))
    assert joined(await events(client)) == ("xy", [7, 8])


async def test_a_job_that_is_cancelled_before_it_began_has_published_none(client, runner, engine):
    task, _ = await begin_with_given(runner, engine)
    runner.attempt.abort("cancelled")
    ended = (await task).result
    assert (ended.status, ended.text, ended.token_ids) == ("cancelled", "", ())


async def test_the_stream_says_what_the_attempt_runs_on(client, runner, engine):
    runner.engine_facts = EngineFacts(device="a card", dtype="float32", torch="2.13")
    task, run = await begin(runner, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    await task
    [started] = (event.data for event in await events(client) if isinstance(event, Started))
    assert started.runs_on == runner.engine_facts
