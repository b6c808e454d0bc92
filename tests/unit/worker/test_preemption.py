"""A running job makes way for one of a higher priority, and goes on as if nothing had been.

Whole workers, on an event loop that turns as a test says.
"""

from collections.abc import Iterator

import pytest
from fakeredis import FakeServer
from rq.command import send_stop_job_command
from rq.registry import StartedJobRegistry

from producer import Producer
from producer.contract import GenerationResult, Keys, Priority, StreamedEvent, parse_entry
from producer.ledger.delete import Held, delete
from tests.unit.simulated_worker import SimulatedWorker, undisturbed_text
from worker.preemption import CHEAP_START_S, IDLE_START_S, start_of_others_s
from worker.settings import WorkerSettings

from .jobs import registered
from .server import Server

KEYS = Keys()
LONG = 30
"""Tokens of a job that is made to wait. A turn of the loop gives one."""


def covered(places: range, by: set[int]) -> list:
    """A few stand for all in `make test`."""
    return [pytest.param(place, marks=() if place in by else pytest.mark.matrix) for place in places]


class World:
    """One server, workers, and jobs that are named by their prompts."""

    def __init__(self) -> None:
        self.server = FakeServer(server_type="redis", version=(7, 4))
        self.client = Server(server=self.server)
        self.producer = Producer(connection=Server(server=self.server))
        self.workers: list[SimulatedWorker] = []

    def start(self, **options) -> SimulatedWorker:
        self.workers.append(SimulatedWorker(self.server, f"w{len(self.workers)}", **options))
        return self.workers[-1]

    def submit(self, name: str, priority: Priority, tokens: int = 4) -> str:
        job_id = self.producer.submit(
            name, model="tiny", priority=priority, max_new_tokens=tokens, job_id=name
        ).job_id
        return str(job_id)

    def begun(self, worker: SimulatedWorker, name: str, priority: Priority, tokens: int = LONG) -> str:
        """A job that runs there, and has said something."""
        self.submit(name, priority, tokens)
        worker.turn_until(lambda: len(self.stream(name)) > 1)
        return name

    def parked(self, worker: SimulatedWorker, tokens: int = LONG) -> tuple[str, str]:
        """A low job that waits there, for a high one of so many tokens that has said something."""
        low = self.begun(worker, "low", "low")
        self.submit("high", "high", tokens)
        worker.turn_until(lambda: len(self.stream("high")) > 1 and self.field(low, "parked_by"))
        assert worker.service.runner.attempts[low].is_parked
        return low, "high"

    def stream(self, job_id: str) -> list[StreamedEvent]:
        return [parse_entry(*entry) for entry in self.client.xrange(KEYS.events(job_id))]

    def result(self, job_id: str) -> GenerationResult | None:
        raw = self.client.get(KEYS.result(job_id))
        return GenerationResult.model_validate_json(raw) if raw else None

    def status(self, job_id: str) -> str:
        return (self.client.hget(f"rq:job:{job_id}", "status") or b"").decode()

    def field(self, job_id: str, name: str) -> bytes | None:
        return self.client.hget(f"rq:job:{job_id}", name)

    def ended(self, worker: SimulatedWorker, *names: str) -> list[GenerationResult]:
        """The results, once RQ knows of all of them."""
        worker.turn_until(
            lambda: all(self.status(name) in ("finished", "failed", "stopped") for name in names), 2000
        )
        return [result for name in names if (result := self.result(name))]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for worker in world.workers:
        worker.close()
        assert worker.failures() == []
    world.producer.close()


def texts(*names_and_tokens: tuple[str, int]) -> list[str]:
    return [undisturbed_text(name, tokens) for name, tokens in names_and_tokens]


class TestMakingWay:
    def test_a_low_job_makes_way_and_goes_on_as_if_nothing_had_been(self, world):
        worker = world.start()
        low, high = world.parked(worker)
        said = world.stream(low)
        high_result, low_result = world.ended(worker, high, low)
        assert [low_result.text, high_result.text] == texts((low, LONG), (high, LONG))
        stream = world.stream(low)
        assert stream[: len(said)] == said
        assert [each.event.type for each in stream].count("started") == 1
        assert (low_result.attempts, world.field(low, "deaths"), world.field(low, "parked_by")) == (1, None, None)
        assert low_result.timings.parked_ms > 0
        assert high_result.timings.parked_ms is None
        assert worker.service.metrics.registry.get_sample_value("genqueue_jobs_parked_total") == 1
        assert not world.client.exists(KEYS.taken(worker.service.worker.name))

    def test_the_high_job_has_ended_before_the_low_one_says_another_word(self, world):
        worker = world.start()
        low, high = world.parked(worker)
        said = len(world.stream(low))
        worker.turn_until(lambda: world.result(high))
        assert len(world.stream(low)) == said
        worker.turn_until(lambda: len(world.stream(low)) > said)

    @pytest.mark.parametrize(
        ("preempt", "running", "comes", "makes_way"),
        [
            ("off", "low", "high", False),
            ("low", "low", "normal", True),
            ("low", "low", "low", False),
            ("low", "normal", "high", False),
            ("all", "low", "normal", True),
            ("all", "normal", "high", True),
            ("all", "normal", "low", False),
            ("all", "high", "high", False),
        ],
    )
    def test_which_jobs_do(self, world, preempt, running, comes, makes_way):
        worker = world.start(preempt=preempt)
        first = world.begun(worker, "first", running)
        world.submit("other", comes)
        results = world.ended(worker, first, "other")
        assert [result.text for result in results] == texts((first, LONG), ("other", 4))
        assert (results[0].timings.parked_ms is not None) is makes_way

    @pytest.mark.parametrize("groups", [(None, "b"), ("a", None), ("a", "a"), ("a", "b")])
    def test_groups_make_way_for_each_other_by_priority(self, world, groups):
        worker = world.start()
        for name, priority, group in (("low", "low", groups[0]), ("high", "high", groups[1])):
            world.producer.submit(
                name, model="tiny", priority=priority, group=group, max_new_tokens=LONG, job_id=name
            )
            worker.turn_until(lambda name=name: len(world.stream(name)) > 1)
        assert worker.service.runner.attempts["low"].is_parked
        results = world.ended(worker, "low", "high")
        assert [result.text for result in results] == texts(("low", LONG), ("high", LONG))

    def test_jobs_are_parked_on_top_of_each_other(self, world):
        worker = world.start(preempt="all")
        world.begun(worker, "low", "low")
        world.begun(worker, "normal", "normal")
        world.begun(worker, "high", "high")
        attempts = worker.service.runner.attempts
        assert {name: attempt.is_parked for name, attempt in attempts.items()} == {
            "low": True, "normal": True, "high": False,
        }  # fmt: skip
        order = []
        for name in ("high", "normal", "low"):
            worker.turn_until(lambda name=name: world.result(name))
            order.append([other for other in ("high", "normal", "low") if world.result(other)])
        assert order == [["high"], ["high", "normal"], ["high", "normal", "low"]]
        names = ("low", "normal", "high")
        assert [each.text for each in world.ended(worker, *names)] == texts(*((name, LONG) for name in names))

    def test_a_parked_job_goes_before_the_others_of_its_queue(self, world):
        worker = world.start()
        low, _ = world.parked(worker)
        world.submit("behind", "low")
        worker.turn_until(lambda: world.result("behind"), 2000)
        assert world.result(low)

    def test_all_that_came_before_it_meanwhile_goes_first(self, world):
        worker = world.start()
        low, _ = world.parked(worker)
        for name, priority in (("second", "high"), ("third", "normal")):
            world.submit(name, priority)
        worker.turn_until(lambda: world.result("third"), 2000)
        assert world.result(low) is None
        assert worker.service.runner.attempts[low]._turn.times == 1, "it was not taken up in between"

    def test_what_it_is_shows_in_rq_and_in_its_meta(self, world):
        worker = world.start()
        low, high = world.parked(worker)
        worker.do(worker.service.upkeep.save_progress)
        status = world.producer.status(low)
        assert (status.state, status.progress.phase, status.worker) == (
            "running", "paused", worker.service.worker.name,
        )  # fmt: skip
        worker.turn_until(lambda: world.field(low, "parked_by") == worker.service.worker.name.encode())
        assert world.field(high, "parked_by") is None
        assert registered(StartedJobRegistry, world.client, "generate.tiny.low") == [low]
        assert worker.service.worker.get_current_job_id() == high
        worker.turn_until(lambda: world.result(high) and not worker.service.runner.attempts[low].is_parked)
        worker.do(worker.service.upkeep.save_progress)
        assert world.producer.status(low).progress.phase == "decode"
        worker.turn_until(lambda: world.field(low, "parked_by") is None)

    def test_its_progress_is_written_once_while_it_waits(self, world, monkeypatch):
        worker = world.start()
        low, _ = world.parked(worker)
        written: list[str] = []
        monkeypatch.setattr(worker.service.worker, "save_progress", lambda job, _: written.append(job.id))
        for _ in range(3):
            worker.do(worker.service.upkeep.save_progress)
            worker.turn(3)
        assert written.count(low) == 1

    def test_the_pace_of_a_job_is_its_own(self, world):
        worker = world.start()
        low, high = world.parked(worker)
        assert len(worker.service.worker.pace._began) == 2
        world.ended(worker, low, high)
        worker.turn_until(lambda: worker.service.worker.pace._jobs == 2)
        assert worker.service.worker.pace._began == []


class TestBounds:
    def test_nobody_is_put_off_without_end(self, world):
        """There is always another high job. The low one makes way twice, and ends before the third."""
        worker = world.start(max_preemptions=2)
        low = world.begun(worker, "low", "low", 200)
        attempt = worker.service.runner.attempts[low]
        for number in range(3):
            world.submit(f"high-{number}", "high", 5)
            worker.turn_until(lambda number=number: world.result(f"high-{number}") or world.result(low))
            said = len(world.stream(low))
            worker.turn_until(lambda said=said: len(world.stream(low)) > said or world.result(low))
        assert (attempt._turn.times, world.result("high-2")) == (2, None)
        assert world.result(low).text == undisturbed_text(low, 200)
        assert world.ended(worker, "high-2")

    def test_nobody_waits_for_longer_than_that_and_the_job_at_hand(self, world, monkeypatch):
        """High jobs come without a pause. Once the low one has waited for so long, the one at hand is the last."""
        worker = world.start(max_parked_s=10.0)
        low, _ = world.parked(worker)
        turn = worker.service.runner.attempts[low]._turn
        for name in ("second", "third"):
            world.submit(name, "high", LONG)
        worker.turn_until(lambda: len(world.stream("second")) > 1)
        turn._clock = lambda: turn._away_at + 11.0
        worker.turn_until(lambda: world.result(low))
        assert world.result("second")
        assert world.result("third") is None
        world.ended(worker, "third")

    @pytest.mark.parametrize("option", [{"max_preemptions": 0}, {"preempt": "off"}])
    def test_none_at_all(self, world, option):
        worker = world.start(**option)
        low = world.begun(worker, "low", "low")
        world.submit("high", "high")
        assert world.ended(worker, low, "high")[0].timings.parked_ms is None

    def test_what_a_worker_holds_is_kept_for_as_long_as_a_job_may_wait(self):
        options = {"model_name": "tiny", "max_result_ttl_s": 10, "max_job_timeout_s": 100}
        before = WorkerSettings(**options, max_parked_s=1).keep_held_s
        assert WorkerSettings(**options, max_parked_s=1001).keep_held_s == before + 1000


class TestSeveralWorkers:
    def test_an_idle_one_has_a_start_and_then_whoever_holds_the_least(self):
        assert start_of_others_s(0, 10**6) == 0.0, "nobody else is there"
        starts = [start_of_others_s(1, tokens) for tokens in (0, 10, 1000, 10**6)]
        assert starts == sorted(set(starts))
        assert starts[0] == IDLE_START_S
        assert starts[-1] < IDLE_START_S + CHEAP_START_S

    def test_none_makes_way_where_another_one_takes_the_job(self, world):
        busy = world.start()
        low = world.begun(busy, "low", "low")
        idle = world.start()
        world.submit("high", "high")
        world.ended(idle, "high")
        assert world.ended(busy, low)[0].timings.parked_ms is None

    def test_the_moment_is_given(self, world, monkeypatch):
        """A busy worker takes nothing before it is over."""
        worker = world.start()
        monkeypatch.setattr("worker.preemption.IDLE_START_S", 50 * 0.02)  # fifty turns
        low = world.begun(worker, "low", "low", 1000)
        worker.service.presence.members = 2
        worker.turn(5)  # a moment of nothing may just be over
        world.submit("high", "high")
        worker.turn(20)
        assert not world.stream("high")
        worker.turn_until(lambda: world.stream("high"))
        assert worker.service.runner.attempts[low].is_parked


class TestParkedAndThen:
    def test_one_that_is_cancelled_ends_while_the_other_runs(self, world):
        worker = world.start()
        low, high = world.parked(worker, 400)
        ids = [token for each in world.stream(low) if each.event.type == "tokens" for token in each.event.data.ids]
        world.producer.cancel(low)
        worker.service.runner.look_for_cancel()
        worker.turn_until(lambda: world.status(low) == "stopped")
        assert world.result(high) is None
        result = world.result(low)
        assert (result.status, list(result.token_ids)) == ("cancelled", ids)
        assert result.text == undisturbed_text(low, len(ids)), "what was held back is part of it"
        assert world.ended(worker, high)[0].text == undisturbed_text(high, 400)

    def test_one_that_rq_is_told_to_stop_ends_too(self, world):
        worker = world.start()
        low, high = world.parked(worker, 400)
        heard: list[dict] = []
        original = world.client.publish
        world.client.publish = lambda _, message: heard.append({"data": message.encode()})
        send_stop_job_command(world.client, low, serializer="json")
        world.client.publish = original
        worker.service.worker.handle_payload(heard[0])
        assert world.client.exists(KEYS.cancel(low))
        worker.service.runner.look_for_cancel()
        worker.turn_until(lambda: world.status(low) == "stopped")
        assert world.result(high) is None
        assert world.ended(worker, high)[0].status == "finished"

    def test_a_parked_job_is_not_deleted(self, world):
        worker = world.start()
        low, _ = world.parked(worker)
        assert isinstance(delete(KEYS, low, ["tiny"]).run(world.client), Held)
        world.producer.cancel(low)
        worker.service.runner.look_for_cancel()
        worker.turn_until(lambda: world.status(low) == "stopped")
        worker.turn_until(lambda: not isinstance(delete(KEYS, low, ["tiny"]).run(world.client), Held))
        assert world.stream(low) == []

    def test_a_worker_that_leaves_puts_it_back_at_once_and_ends_the_other(self, world):
        worker = world.start()
        low, high = world.parked(worker)
        world.submit("behind", "low")
        worker.service._leaving.asked.set()
        worker.turn_until(lambda: world.status(low) == "queued")
        assert world.result(high) is None
        assert world.client.lrange("rq:queue:generate.tiny.low", 0, -1) == [b"low", b"behind"]
        worker.turn_until(lambda: world.result(high))
        worker.line.commands_left = 0
        other = world.start()
        [result] = world.ended(other, low)
        assert (result.text, result.attempts) == (undisturbed_text(low, LONG), 2)
        assert world.field(low, "deaths") is None

    def test_a_worker_that_leaves_makes_way_for_nobody(self, world):
        worker = world.start()
        low = world.begun(worker, "low", "low")
        worker.service._leaving.asked.set()
        world.submit("high", "high")
        worker.turn_until(lambda: world.result(low))
        assert world.result("high") is None or world.result(low).timings.parked_ms is None

    def test_one_whose_worker_dies_goes_on_elsewhere_and_no_death_counts(self, world):
        worker = world.start()
        low, high = world.parked(worker)
        said = world.stream(low)
        worker.line.commands_left = 0
        worker.outlive(world.client)
        other = world.start()
        other.bury()
        assert (world.field(low, "deaths"), world.field(high, "deaths")) == (None, b"1")
        low_result, high_result = world.ended(other, low, high)
        assert [low_result.text, high_result.text] == texts((low, LONG), (high, LONG))
        assert world.stream(low)[: len(said)] == said

    def test_a_zombie_with_a_parked_job_adds_nothing(self, world):
        zombie = world.start()
        low, high = world.parked(zombie)
        zombie.outlive(world.client)
        other = world.start()
        other.bury()
        results = world.ended(other, low, high)
        streams = world.stream(low), world.stream(high)
        zombie.turn(200)
        assert (world.stream(low), world.stream(high)) == streams
        assert [result.text for result in results] == texts((low, LONG), (high, LONG))
        assert zombie.service.runner.attempts == {}

    def test_one_whose_engine_dies_over_another_goes_on_in_the_next_one(self, world, monkeypatch):
        worker = world.start()
        low, high = world.parked(worker)
        starts: list[int] = []

        async def start() -> None:
            starts.append(1)
            worker.engine.died = False

        monkeypatch.setattr(worker.service._keeper, "start", start)
        worker.engine.died = True
        worker.engine.run.dying = True
        worker.turn_until(lambda: starts)
        results = world.ended(worker, low, high)
        assert [result.text for result in results] == texts((low, LONG), (high, LONG))
        assert [result.attempts for result in results] == [1, 2]
        assert (world.field(low, "deaths"), len(starts)) == (None, 1)

    @pytest.mark.parametrize("how", ["away", "empty"])
    def test_redis_may_be_away_or_come_back_empty_while_it_is_parked(self, world, how):
        worker = world.start()
        low, high = world.parked(worker)
        if how == "away":
            world.server.connected = False
            worker.turn(30)
            world.server.connected = True
        else:
            world.client.flushall()
        worker.turn_until(lambda: world.result(high) and world.result(low), 3000)
        assert [world.result(name).text for name in (low, high)] == texts((low, LONG), (high, LONG))
        assert [each.id.seq for each in world.stream(low)] == list(range(len(world.stream(low))))
        assert world.result(low).attempts == 1

    def test_a_suspended_worker_sees_through_what_it_has(self, world, monkeypatch):
        monkeypatch.setattr("worker.preemption.SUSPENDED_S", 0.02)
        worker = world.start()
        low, high = world.parked(worker)
        world.client.set("rq:suspended", "1")
        world.submit("later", "high")
        world.ended(worker, high, low)
        assert world.result("later") is None
        world.client.delete("rq:suspended")

    def test_what_stands_in_place_of_a_queue_keeps_no_job_from_its_end(self, world, monkeypatch):
        monkeypatch.setattr("worker.preemption.BROKEN_RETRY_S", 0.02)
        worker = world.start()
        low = world.begun(worker, "low", "low")
        world.client.set("rq:queue:generate.tiny.high", "foreign")
        worker.turn_until(lambda: world.result(low))
        world.client.delete("rq:queue:generate.tiny.high")

    def test_a_server_that_serves_nobody_ends_the_worker_and_nothing_is_left_behind(self, world):
        worker = world.start()
        world.parked(worker)
        worker._main.cancel()
        worker.turn(20)
        assert worker.service.runner.attempts == {}

    @pytest.mark.parametrize("answers", covered(range(8), {1, 4}))
    def test_an_answer_that_is_lost_on_the_way_to_it_changes_nothing(self, world, answers):
        worker = world.start()
        low = world.begun(worker, "low", "low")
        world.submit("high", "high", LONG)
        worker.line.answers_until_loss = answers
        results = world.ended(worker, "high", low)
        assert [result.text for result in results] == texts(("high", LONG), (low, LONG))
        assert [result.attempts for result in results] == [1, 1]

    @pytest.mark.parametrize("commands", covered(range(60), {1, 7, 15, 33}))
    def test_a_worker_may_die_at_any_command_of_it(self, world, commands):
        worker = world.start()
        low = world.begun(worker, "low", "low", 20)
        world.submit("high", "high", 6)
        worker.line.commands_left = commands
        worker.turn(150)
        worker.line.commands_left = 0
        worker.outlive(world.client)
        other = world.start()
        other.bury()
        other.turn_until(lambda: world.result(low) and world.result("high"), 2000)
        assert [world.result(name).text for name in (low, "high")] == texts((low, 20), ("high", 6))
