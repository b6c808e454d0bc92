"""Real processes against a real server."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from rq import Queue

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import StreamedEvent, Tokens
from tests.models import tiny_model_paths

from .worker_process import WorkerProcess

if TYPE_CHECKING:
    from openai import OpenAI


@pytest.fixture(scope="session")
def model_paths() -> Path:
    """A model paths file whose `tiny` is trained."""
    return tiny_model_paths()


@pytest.fixture(scope="module")
def serving_broker() -> Iterator[EmbeddedBroker]:
    """A server for the tests of one module, with its worker."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="module")
def serving(
    serving_broker: EmbeddedBroker, model_paths: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """A worker that serves one job after another for all tests of a module, the bad ones included."""
    log = tmp_path_factory.mktemp("worker") / "log"
    settings = {"GENQUEUE_METRICS_PORT": "0", "GENQUEUE_PROGRESS_INTERVAL_S": "0.05"}
    worker = WorkerProcess(serving_broker.url, model_paths, log, **settings)
    yield worker.wait_until_ready()
    assert worker.process.poll() is None, f"the worker has ended:\n{worker.text()}"
    worker.stop()


@pytest.fixture
def client(serving_broker: EmbeddedBroker) -> Iterator[redis.Redis]:
    """A plain client of the module's server."""
    with redis.Redis(port=serving_broker.port) as client:
        yield client


@pytest.fixture
def client_of() -> "Iterator[Callable[[str], OpenAI]]":
    """Makes openai's clients of gateways, by their addresses. Their connections and streams end with the test."""
    from openai import OpenAI  # noqa: PLC0415 - for those alone who use it

    with contextlib.ExitStack() as stack:
        yield lambda url: stack.enter_context(OpenAI(base_url=url, api_key="none", max_retries=0, timeout=100))


@pytest.fixture
def queue(serving: WorkerProcess, client: redis.Redis) -> Queue:
    """The queue as a script sees it that has only rq installed."""
    return Queue("generate.tiny", connection=client, serializer="json")


@pytest.fixture
def producer(serving: WorkerProcess, serving_broker: EmbeddedBroker) -> Iterator[Producer]:
    """A producer of the module's server."""
    with Producer(serving_broker.url) as producer:
        yield producer


@pytest.fixture
def start_worker(model_paths: Path, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers of the test's own, and ends them."""
    started: list[WorkerProcess] = []

    def start(redis_url: str, *options: str, checkout: Path | None = None, **environment: str) -> WorkerProcess:
        log = tmp_path / f"worker-{len(started)}.log"
        started.append(WorkerProcess(redis_url, model_paths, log, *options, checkout=checkout, **environment))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


class Crew:
    """Workers of one server, for the tests of a module: whoever is alive after one test serves the next.

    To start one takes longer than most tests. A test that kills one, or wants settings of its own, starts others.
    """

    def __init__(self, redis_url: str, model_paths: Path, logs: Path) -> None:
        self._redis_url, self._model_paths, self._logs = redis_url, model_paths, logs
        self._started: list[tuple[WorkerProcess, dict[str, str]]] = []

    def one(self, **environment: str) -> WorkerProcess:
        """The only one that is alive, and ready, with these settings."""
        alive = [each for each in self._started if each[0].process.poll() is None]
        fitting = [worker for worker, settings in alive if settings == environment][-1:]
        for worker, _ in alive:
            if worker not in fitting:
                worker.stop()
        return (fitting[0] if fitting else self.start(**environment)).wait_until_ready()

    def start(self, **environment: str) -> WorkerProcess:
        """Another one."""
        log = self._logs / str(len(self._started))
        worker = WorkerProcess(self._redis_url, self._model_paths, log, **environment)
        self._started.append((worker, environment))
        return worker

    def stop(self) -> None:
        """All of them."""
        for worker, _ in self._started:
            worker.stop()


@pytest.fixture(scope="module")
def durable() -> Iterator[EmbeddedBroker]:
    """A server that keeps every acknowledged write, for the tests of one module."""
    with EmbeddedBroker(append_only=True) as broker:
        yield broker


@pytest.fixture(scope="module")
def crew(durable: EmbeddedBroker, model_paths: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Workers of the server that keeps what it has."""
    crew = Crew(durable.url, model_paths, tmp_path_factory.mktemp("crew"))
    yield crew
    crew.stop()


def joined(events: list[StreamedEvent]) -> tuple[str, list[int]]:
    """Text and ids of a whole stream. Asserts that nothing is missing, doubled, or after the end."""
    assert [streamed.id.seq for streamed in events] == list(range(len(events)))
    assert [streamed.is_terminal for streamed in events] == [False] * (len(events) - 1) + [True]
    tokens = [streamed.event.data for streamed in events if isinstance(streamed.event, Tokens)]
    ids: list[int] = []
    for data in tokens:
        assert data.index == len(ids)
        ids += data.ids
    return "".join(data.text for data in tokens), ids
