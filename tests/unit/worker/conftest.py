"""Workers of RQ on one in-memory Redis, and a job that one of them has taken."""

from collections.abc import Callable

import pytest
from fakeredis import FakeServer
from rq.job import Job
from rq.worker.base import WorkerStatus

from worker.queue.rq_worker import GenerationWorker
from worker.settings import WorkerSettings

from .jobs import beat, taken_job_of
from .server import Server


@pytest.fixture
def client(fake_server: FakeServer) -> Server:
    return Server(server=fake_server)


@pytest.fixture
def start(fake_server: FakeServer) -> Callable[..., GenerationWorker]:
    """Starts workers that are shown in RQ, and alive."""

    def start(name: str = "w", model: str = "tiny", **settings) -> GenerationWorker:
        options = WorkerSettings(**{"model_name": model, "name": name, "max_result_ttl_s": 1000, **settings})
        worker = GenerationWorker(options, Server(server=fake_server), on_stop=lambda: None)
        worker.register_birth()
        worker.set_state(WorkerStatus.STARTED)
        beat(worker)
        return worker

    return start


@pytest.fixture
def worker(start: Callable[..., GenerationWorker]) -> GenerationWorker:
    return start()


@pytest.fixture
def job(client: Server, worker: GenerationWorker) -> Job:
    """Taken, and not begun."""
    return taken_job_of(client, worker)
