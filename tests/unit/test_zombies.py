"""Workers that were stopped for longer than their record lived: one story each, found by the state machine."""

from collections.abc import Callable, Iterator

import pytest
from fakeredis import FakeServer

from producer import Producer
from producer.contract import Keys, StreamedEvent, parse_entry

from .simulated_worker import FAULT, SimulatedWorker
from .worker.server import Server

KEYS = Keys()
JOB = "job"


class World:
    """Two workers and one job, which the first has taken."""

    def __init__(self, prompt: str) -> None:
        server = FakeServer(server_type="redis", version=(7, 4))
        self.client = Server(server=server)
        self.zombie, self.other = (SimulatedWorker(server, name) for name in ("zombie", "other"))
        with Producer(connection=Server(server=server)) as producer:
            producer.submit(prompt, model="tiny", max_new_tokens=6, job_id=JOB)

    def stream(self) -> list[StreamedEvent]:
        return [parse_entry(*entry) for entry in self.client.xrange(KEYS.events(JOB))]

    def bury(self) -> None:
        """The zombie is taken for dead, and the job is back in its queue."""
        self.zombie.outlive(self.client)
        self.other.bury()


@pytest.fixture
def begin() -> Iterator[Callable[[str], World]]:
    worlds: list[World] = []

    def begin(prompt: str) -> World:
        worlds.append(World(prompt))
        return worlds[-1]

    yield begin
    for world in worlds:
        world.zombie.close()
        world.other.close()


def test_a_zombie_that_had_published_nothing_does_not_take_the_next_workers_attempt(begin) -> None:
    """Both believed to be attempt 1. The zombie's event fenced off the worker that had the job in its list, which
    let go of it; when the zombie died, the job was in no list at all, and lost."""
    world = begin("steady")
    world.zombie.turn_until(lambda: world.client.zcard(KEYS.beats))  # else nobody would notice its death
    assert world.zombie.service.runner.attempt
    assert world.stream() == []
    world.bury()
    world.other.turn_until(lambda: world.other.service.runner.attempt)
    world.zombie.turn(100)
    assert world.stream() == []
    world.other.turn_until(lambda: world.stream() and world.stream()[-1].is_terminal)
    assert world.stream()[-1].event.data.worker == world.other.service.worker.name


@pytest.mark.parametrize("prompt", ["steady", FAULT])
def test_a_zombie_does_not_end_a_job_that_waits_in_its_queue_again(begin, prompt: str) -> None:
    """Its `failed` landed. Whoever took the job next believed that a user had it run again, and emptied the
    stream that subscribers had seen the end of."""
    world = begin(prompt)
    world.zombie.turn_until(world.stream)
    world.bury()
    seen = world.stream()
    world.zombie.turn_until(lambda: world.zombie.service.runner.attempt is None)
    assert world.stream() == seen
    world.other.turn_until(lambda: world.stream()[-1].is_terminal)
    ended = world.stream()
    assert ended[: len(seen)] == seen
    world.zombie.turn(100)
    assert world.stream() == ended
