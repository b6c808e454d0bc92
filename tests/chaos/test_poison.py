"""A job that kills its workers ends, and holds up nobody; one that waits for too long ends too.

The worker of these tests dies, with SIGKILL, whenever it begins the poison job: at the point at which a request
that crashes the process would.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rq.job import JobStatus
from rq.registry import FailedJobRegistry

from producer import Producer
from tests.integration.conftest import joined
from tests.integration.test_worker import LONG, wait_for, wait_for_tokens

from .checker import check_left, check_rq, check_stream, read
from .fleet import Member

pytestmark = pytest.mark.long

MAX_ATTEMPTS = 3
IMPATIENT = {"GENQUEUE_HEARTBEAT_TTL_S": "2", "GENQUEUE_HEARTBEAT_INTERVAL_S": "0.5"}


@pytest.fixture
def start_mortal(
    model_paths: Path, tmp_path: Path, durable, monkeypatch
) -> Iterator[Callable[[str, int], Member]]:
    """Starts a worker that dies at a point."""
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    started: list[Member] = []

    def start(point: str, nth: int) -> Member:
        log = tmp_path / f"mortal{len(started)}.log"
        attempts = {"GENQUEUE_MAX_ATTEMPTS": str(MAX_ATTEMPTS)}
        started.append(Member(durable.url, model_paths, log, point, nth, environment=attempts))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


@pytest.mark.parametrize("point", ["after RQ has heard of the start", "between an append and its answer"])
def test_a_poison_job_ends_as_worker_lost_and_holds_up_nobody(
    client, producer: Producer, start_mortal, start_worker, point
):
    poison = producer.submit(**LONG, model="tiny", job_id="poison")
    behind = [producer.submit("hi", model="tiny", max_new_tokens=2) for _ in range(2)]
    for _ in range(MAX_ATTEMPTS):
        victim = start_mortal(point, 4 if "append" in point else 1)
        assert victim.wait(60) == -signal.SIGKILL
        assert client.exists("gen:{poison}:result") == 0, "it had further attempts"
    start_worker(victim.redis_url, **IMPATIENT)

    result = poison.result(timeout_s=100, check=False)
    assert (result.status, result.error.code) == ("failed", "worker_lost")
    assert [each.result(timeout_s=100).status for each in behind] == ["finished", "finished"]
    wait_for(lambda: client.hget("rq:job:poison", "status") == JobStatus.FAILED.encode(), "RQ's bookkeeping")
    assert "poison" in FailedJobRegistry("generate.tiny", connection=client, serializer="json").get_job_ids()
    text, ids = joined(list(poison.stream()))
    assert (text, ids) == (result.text, list(result.token_ids)), "it keeps the text that it had"
    assert text or "append" not in point
    wait_for(lambda: not client.keys("gen:{taken:*"), "the last list to be put down")
    [evidence] = read(client, ["poison"])
    assert check_stream(evidence) + check_rq(evidence) + check_left(evidence) == []


def test_whoever_dies_before_the_job_has_begun_has_not_died_over_it(client, producer, start_mortal, start_worker):
    job = producer.submit("hi", model="tiny", max_new_tokens=2)
    for _ in range(MAX_ATTEMPTS):
        victim = start_mortal("between pop and start", 1)
        assert victim.wait(60) == -signal.SIGKILL
    start_worker(victim.redis_url, **IMPATIENT)
    assert job.result(timeout_s=100).status == "finished"


def test_orderly_ends_of_workers_are_no_deaths(client, producer, start_worker, durable):
    """A job that is put back by a worker that has to go may be put back for as long as it takes."""
    job = producer.submit(**LONG, model="tiny")
    for _ in range(MAX_ATTEMPTS + 1):
        worker = start_worker(durable.url, GENQUEUE_SHUTDOWN_GRACE_S="0.01")
        seen = client.xlen(f"gen:{{{job.job_id}}}:events")
        wait_for_tokens(client, job.job_id, seen + 3)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert client.hget(f"rq:job:{job.job_id}", "deaths") is None
    start_worker(durable.url)
    assert job.result(timeout_s=100).status == "finished"


def test_a_job_that_waits_too_long_behind_a_busy_worker_expires(client, producer, start_worker, durable):
    """It ends when its time is over, and not only when somebody takes it."""
    worker = start_worker(durable.url, GENQUEUE_HEARTBEAT_INTERVAL_S="0.2").wait_until_ready()
    running = producer.submit(**LONG, model="tiny")
    wait_for_tokens(client, running.job_id)
    os.kill(engine := worker.engine_pid(), signal.SIGSTOP)  # the worker is alive, and busy for as long as we like
    late = producer.submit("hi", model="tiny", queue_ttl_s=0.1)
    patient = producer.submit("hi", model="tiny", max_new_tokens=2)
    result = late.result(timeout_s=100, check=False)
    assert (result.status, result.error.code) == ("failed", "expired")
    wait_for(lambda: client.hget(f"rq:job:{late.job_id}", "status") == b"failed", "RQ's bookkeeping")
    wait_for(lambda: client.lrange("rq:queue:generate.tiny", 0, -1) == [patient.job_id.encode()], "it to leave")
    os.kill(engine, signal.SIGCONT)
    assert running.result(timeout_s=100).status == "finished"
    assert patient.result(timeout_s=100).status == "finished"
