"""An attempt whose engine is taken away and given back: one attempt, one stream, and a pause."""

import asyncio

import pytest

from worker.job import Clock, PutBack
from worker.run.attempt import Attempt
from worker.run.event_log import EventLog, Moved
from worker.run.turn import Turn

from ..scripted_engine import ScriptedEngine
from .runs import JOB, KEYS, events, joined, order, result, runner_of, until_written


async def parked(runner, engine: ScriptedEngine, an_order=None, *, tail: str = ""):
    """A job that has said two tokens and was parked."""
    turn = Turn()
    task = asyncio.create_task(runner.run(an_order or order(), turn))
    run = await engine.runs.get()
    run.tail = tail
    run.accept(prompt_tokens=3)
    run.steps("a", "b")
    await until_written(runner.client, 2)
    await asyncio.wait_for(turn.take_away(), 60)
    return task, turn, run


async def gone_on(turn: Turn, engine: ScriptedEngine):
    turn.give_back()
    return await asyncio.wait_for(engine.runs.get(), 60)


async def test_it_goes_on_after_what_it_has_published_as_the_same_attempt(client, runner, engine):
    task, turn, first = await parked(runner, engine, tail="never to be seen")
    assert (first.stopped, first.parked) == (True, True)
    assert not task.done()
    run = await gone_on(turn, engine)
    assert (run.resumed_ids, run.seed, run.request) == ([0, 1], first.seed, first.request)
    assert first.parked is False, "the engine was told that somebody goes on from there"
    run.accept(prompt_tokens=3)
    run.steps("c", finish="stop")
    run.end(cached_tokens=3)
    outcome = await asyncio.wait_for(task, 60)
    stream = await events(client)
    assert [event.type for event in stream] == ["started", "tokens", "tokens", "finished"]
    assert joined(stream) == ("abc", [0, 1, 2])
    assert (outcome.result.text, outcome.result.attempts) == ("abc", 1)
    assert outcome.result.usage.cached_tokens == 0, "what was read of the prompt, was read when it began"
    assert outcome.result.timings.prefill_ms == 1.5
    assert outcome.result == await result(client)


async def test_output_that_the_request_brings_along_is_published_once(client, runner, engine):
    turn = Turn()
    an_order = order(request={"output_token_ids": [7, 8], "max_new_tokens": 9})
    task = asyncio.create_task(runner.run(an_order, turn))
    run = await engine.runs.get()
    run.accept(given_text="xy")
    await until_written(client, 2)
    await asyncio.wait_for(turn.take_away(), 60)
    run = await gone_on(turn, engine)
    assert run.resumed_ids == [7, 8]
    run.accept(given_text="")
    run.steps("c", finish="stop")
    run.end()
    await asyncio.wait_for(task, 60)
    assert joined(await events(client)) == ("xyc", [7, 8, 2])


async def test_one_that_is_stopped_before_it_is_accepted_starts_when_it_goes_on(client, runner, engine):
    turn = Turn()
    task = asyncio.create_task(runner.run(order(), turn))
    await engine.runs.get()
    await asyncio.wait_for(turn.take_away(), 60)
    assert await events(client) == []
    assert runner.attempts[JOB].progress.phase == "paused"
    run = await gone_on(turn, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end(cached_tokens=2)
    outcome = await asyncio.wait_for(task, 60)
    assert [event.type for event in await events(client)] == ["started", "tokens", "finished"]
    assert outcome.result.text == "a"


async def test_one_whose_turn_is_away_when_it_begins_waits_for_it(client, runner, engine):
    turn = Turn()
    await turn.take_away()
    task = asyncio.create_task(runner.run(order(), turn))
    async with asyncio.timeout(60):
        while not (runner.attempts and runner.attempts[JOB].is_parked):
            await asyncio.sleep(0)
    assert engine.runs.empty()
    run = await gone_on(turn, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    assert (await asyncio.wait_for(task, 60)).result.text == "a"


async def test_one_whose_turn_is_taken_away_again_before_it_has_seen_that_it_was_its_own_waits(runner, engine):
    turn = Turn()
    await turn.take_away()
    task = asyncio.create_task(runner.run(order(), turn))
    async with asyncio.timeout(60):
        while not (runner.attempts and runner.attempts[JOB].is_parked):
            await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    turn.give_back()
    await turn.take_away()  # another job has the engine now
    for _ in range(50):
        await asyncio.sleep(0)
    assert engine.runs.empty()
    assert runner.attempts[JOB].is_parked
    run = await gone_on(turn, engine)
    run.accept()
    run.steps("a", finish="stop")
    run.end()
    assert (await asyncio.wait_for(task, 60)).result.text == "a"


async def test_one_that_ends_before_it_can_be_parked_has_ended(runner, engine):
    turn = Turn()
    task = asyncio.create_task(runner.run(order(), turn))
    run = await engine.runs.get()
    run.accept()
    run.steps("a", finish="stop")  # was on its way
    await asyncio.wait_for(turn.take_away(), 60)
    outcome = await asyncio.wait_for(task, 60)
    assert (outcome.result.status, outcome.result.text) == ("finished", "a")


async def test_its_progress_says_so(runner, engine):
    task, turn, _ = await parked(runner, engine)
    progress = runner.attempts[JOB].progress
    assert (progress.as_dict()["phase"], progress.tokens) == ("paused", 2)
    assert runner.attempt is None
    run = await gone_on(turn, engine)
    assert progress.phase == "decode"
    assert runner.attempt is runner.attempts[JOB]
    run.accept()
    run.steps("c", finish="stop")
    run.end()
    await task
    assert runner.attempts == {}


class TestCancelled:
    async def test_it_ends_at_once_with_all_its_text(self, client, runner, engine):
        """What the engine had held back is part of it, and the engine is another job's by now."""
        task, _, _ = await parked(runner, engine, tail="…")
        await client.set(KEYS.cancel(JOB), "1")
        outcome = await asyncio.wait_for(task, 60)
        assert (outcome.result.status, outcome.result.text, outcome.result.token_ids) == (
            "cancelled",
            "ab…",
            (0, 1),
        )
        assert outcome.result.timings.parked_ms > 0
        assert joined(await events(client)) == ("ab…", [0, 1])
        assert engine.runs.empty()

    async def test_a_stop_command_is_looked_for_at_once(self, client, engine):
        runner = runner_of(engine, client, "w1", cancel_poll_s=3600)
        task, _, _ = await parked(runner, engine)
        await client.set(KEYS.cancel(JOB), "1")
        runner.look_for_cancel()
        assert (await asyncio.wait_for(task, 60)).result.status == "cancelled"

    async def test_while_it_is_being_parked(self, client, runner, engine):
        turn = Turn()
        task = asyncio.create_task(runner.run(order(), turn))
        run = await engine.runs.get()
        run.accept()
        run.steps("a")
        await until_written(client, 2)
        run.tail = "…"
        taking = asyncio.create_task(turn.take_away())
        await asyncio.sleep(0)
        runner.attempt.abort("cancelled")
        assert (await asyncio.wait_for(task, 60)).result.text == "a…"
        await taking


class TestTime:
    async def test_its_time_out_passes_while_it_runs_and_at_no_other_time(self, runner, engine):
        turn = Turn()
        task = asyncio.create_task(runner.run(order(timeout_s=0.3), turn))
        run = await engine.runs.get()
        run.accept()
        await asyncio.wait_for(turn.take_away(), 60)
        await asyncio.sleep(0.4)
        assert not task.done()
        run = await gone_on(turn, engine)
        run.accept()
        outcome = await asyncio.wait_for(task, 60)
        assert outcome.result.error.code == "timeout"

    def test_no_figure_of_speed_holds_it(self):
        """Two tokens at 1 s, parked, and two more: three steps of which one is a pause."""
        clock = Clock(begun=0.0)
        for at in (1.0, 1.5):
            clock.note(at)
        clock.note_prefill(500.0)
        clock._parked_at, clock._was_parked, clock.parked_s = 1.5, True, 10.0
        for at in (11.6, 12.1):
            clock.note(at)
        clock.note_prefill(100.0)
        timings = clock.timings(4, None)
        assert (timings.prefill_ms, timings.parked_ms) == (500.0, 10_000.0)
        assert (timings.time_to_first_token_ms, timings.decode_ms) == (1000.0, 1000.0)
        assert timings.tokens_per_second == 2.0

    def test_before_the_first_token(self):
        clock = Clock(begun=0.0)
        clock.note_prefill(200.0)
        clock.parked_s, clock._was_parked = 5.0, True
        for at in (6.0, 6.5):
            clock.note(at)
        clock.note_prefill(300.0)
        timings = clock.timings(2, None)
        assert (timings.prefill_ms, timings.time_to_first_token_ms, timings.decode_ms) == (500.0, 1000.0, 500.0)
        assert timings.tokens_per_second == 2.0

    def test_a_job_that_never_was_says_nothing_of_it(self):
        assert "parked_ms" not in Clock().timings(0, None).model_dump()
        assert '"parked_ms":3.0' in Clock(parked_s=0.003).timings(0, None).model_dump_json()


class TestTrouble:
    async def test_a_worker_that_leaves_puts_it_back_at_once(self, client, runner, engine):
        task, _, _ = await parked(runner, engine, tail="…")
        runner.abort("shutdown")
        assert await asyncio.wait_for(task, 60) == PutBack("the worker is shutting down")
        assert joined(await events(client)) == ("ab", [0, 1])

    async def test_an_engine_that_died_meanwhile_has_not_died_over_it(self, client, runner, engine):
        """It goes on in the next one, which reads it again."""
        task, turn, _ = await parked(runner, engine)
        run = await gone_on(turn, engine)
        run.accept()
        run.steps("c", finish="stop")
        run.end()
        assert (await task).result.attempts == 1

    async def test_an_engine_that_dies_when_it_is_to_stop_has_died_over_it(self, client, runner, engine):
        turn = Turn()
        task = asyncio.create_task(runner.run(order(), turn))
        run = await engine.runs.get()
        run.accept()
        await until_written(client, 1)
        run.stop = lambda **_: run.die()
        await asyncio.wait_for(turn.take_away(), 60)
        assert await asyncio.wait_for(task, 60) == PutBack("the engine died", engine_died=True)

    async def test_one_that_another_worker_has_by_now_is_given_up_without_the_engine(self, client, runner, engine):
        """It finds out when it appends, at the latest when it goes on."""
        task, turn, _ = await parked(runner, engine)
        await client.delete(KEYS.taken("w1"))
        await client.hset(f"rq:job:{JOB}", mapping={"status": "started", "worker_name": "w2"})
        run = await gone_on(turn, engine)
        run.accept()
        run.steps("c")
        assert type(await asyncio.wait_for(task, 60)).__name__ == "Superseded"
        assert joined(await events(client)) == ("ab", [0, 1])

    async def test_one_whose_stream_has_moved_does_not_wait_for_its_turn(self, client, engine, monkeypatch):
        turn = Turn()
        await turn.take_away()
        log = EventLog(client, KEYS, JOB, (), worker="w1", as_owner=True, live_ttl_s=1000, result_ttl_s=100)

        async def moved() -> None:
            raise Moved

        async def nobody_asks() -> bool:
            return False

        monkeypatch.setattr(log, "run", moved)
        attempt = Attempt(
            order(), (), log, engine, turn=turn, worker_name="w1", cancel_requested=nobody_asks, cancel_poll_s=9
        )
        with pytest.raises(Moved):
            await asyncio.wait_for(attempt.run(), 60)
        assert engine.runs.empty()


async def test_a_turn_counts_how_often_and_how_long_it_was_away():
    now = 0.0
    turn = Turn(clock=lambda: now)
    for _ in range(2):
        await turn.take_away()
        now += 3.0
        assert not turn.is_mine
        turn.give_back()
        now += 100.0
    assert (turn.times, turn.away_s, turn.is_mine) == (2, 6.0, True)
    await turn.take_away()
    now += 1.0
    assert turn.away_s == 7.0


async def test_whoever_takes_a_turn_waits_until_the_engine_is_free():
    turn, stops = Turn(), []
    turn.begin(lambda: stops.append(1))
    taking = asyncio.create_task(turn.take_away())
    await asyncio.sleep(0)
    assert (stops, taking.done()) == ([1], False)
    turn.end()
    await asyncio.wait_for(taking, 60)
