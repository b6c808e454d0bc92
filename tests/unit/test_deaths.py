"""What counts towards `max_attempts`: the death of a worker, that of its engine, and nothing else."""

from collections.abc import Callable, Iterator

import pytest
from fakeredis import FakeServer

from producer import Producer
from producer.contract import GenerationResult, Keys, StreamedEvent, parse_entry

from .simulated_worker import SimulatedWorker, undisturbed_text
from .worker.server import Server

KEYS = Keys()
JOB = "job"
TOKENS = 200


class World:
    """One job, and the workers that are started for it one after another."""

    def __init__(self) -> None:
        self._server = FakeServer(server_type="redis", version=(7, 4))
        self.client = Server(server=self._server)
        self.workers: list[SimulatedWorker] = []
        with Producer(connection=Server(server=self._server)) as producer:
            producer.submit("steady", model="tiny", max_new_tokens=TOKENS, job_id=JOB)

    def start(self) -> SimulatedWorker:
        self.workers.append(SimulatedWorker(self._server, f"w{len(self.workers)}"))
        return self.workers[-1]

    def stream(self) -> list[StreamedEvent]:
        return [parse_entry(*entry) for entry in self.client.xrange(KEYS.events(JOB))]

    def run(self, worker: SimulatedWorker) -> None:
        """Until the job has a token more than before."""
        seen = len(self.stream())
        worker.turn_until(lambda: len(self.stream()) > seen + 1)

    def put_back(self, worker: SimulatedWorker) -> None:
        """As after a SIGTERM whose grace is over."""
        self.run(worker)
        worker.service.runner.abort("shutdown")
        worker.turn_until(self._is_queued)

    def kill_engine(self, worker: SimulatedWorker) -> None:
        self.run(worker)
        assert worker.engine.run is not None
        worker.engine.run.dying = True
        worker.turn_until(self._is_queued)

    def kill(self, worker: SimulatedWorker) -> None:
        self.run(worker)
        worker.line.commands_left = 0
        worker.outlive(self.client)
        self.start().bury()

    def result(self) -> GenerationResult:
        """Of the job, which the youngest worker takes to its end."""
        self.workers[-1].turn_until(lambda: self.client.exists(KEYS.result(JOB)))
        return GenerationResult.model_validate_json(self.client.get(KEYS.result(JOB)))

    def _is_queued(self) -> bool:
        return self.client.lrange("rq:queue:generate.tiny", 0, -1) == [JOB.encode()]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for worker in world.workers:
        worker.close()


def test_a_job_that_was_put_back_survives_the_first_death_of_an_engine(world: World) -> None:
    """An attempt counted whatever had ended it, so that two restarts of workers used up two of three."""
    worker = world.start()
    world.put_back(worker)
    world.put_back(worker)
    world.kill_engine(worker)
    result = world.result()
    assert (result.status, result.text) == ("finished", undisturbed_text("steady", TOKENS))
    assert result.attempts == 4


@pytest.mark.parametrize("kill", [World.kill_engine, World.kill], ids=["engine", "worker"])
def test_deaths_of_engines_and_of_workers_count_together(world: World, kill: Callable) -> None:
    world.start()
    world.kill_engine(world.workers[-1])
    world.kill(world.workers[-1])
    assert not world.client.exists(KEYS.result(JOB))
    kill(world, world.workers[-1])
    result = world.result()
    assert result.error is not None
    assert (result.status, result.error.code) == ("failed", "worker_lost")
    assert result.text
    assert undisturbed_text("steady", TOKENS).startswith(result.text), "it keeps the text that it had"
    world.workers[-1].turn_until(lambda: world.client.hget(f"rq:job:{JOB}", "status") == b"failed")


def test_one_death_fewer_than_the_limit_ends_nothing(world: World) -> None:
    worker = world.start()
    world.kill_engine(worker)
    world.kill_engine(worker)
    assert world.result().status == "finished"
