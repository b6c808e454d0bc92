"""The worker's loop over jobs, on an in-memory Redis."""

from collections.abc import Iterator

import pytest
from fakeredis import FakeServer

from tests.unit.simulated_worker import SimulatedWorker

from .jobs import KEYS, enqueue
from .server import Server


@pytest.fixture
def simulated(fake_server: FakeServer) -> Iterator[SimulatedWorker]:
    worker = SimulatedWorker(fake_server, "w")
    yield worker
    worker.close()


def test_a_job_that_is_refused_is_counted_and_makes_no_request_look_fast(simulated, client: Server):
    """Its duration was 0 s, so that each bad request made the worker look faster."""
    job = enqueue(client)
    client.hset(job.key, "meta", "no object")
    simulated.turn_until(lambda: client.hget(job.key, "status") == b"failed")
    assert client.exists(KEYS.result(job.id))
    value = simulated.service.metrics.registry.get_sample_value
    assert value("genqueue_jobs_total", {"status": "failed", "error": "invalid_request"}) == 1
    assert value("gen_ai_server_request_duration_seconds_count") == 0
