"""SIGTERM ends a worker's process in time, whatever Redis does."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker

from .conftest import Crew
from .test_worker import wait_for
from .worker_process import WorkerProcess

SLACK_S = 20
"""For a machine that is busy with other things. What is tested for is a worker that stays for good."""
ENDLESS = {"max_new_tokens": 900, "ignore_eos": True}


@pytest.fixture
def place(
    how: str, durable: EmbeddedBroker, crew: Crew, model_paths: Path, tmp_path: Path
) -> Iterator[tuple[EmbeddedBroker, Crew]]:
    """A server that a test takes away, and its workers. The one that is frozen thaws, and serves the next test."""
    if how == "frozen":
        yield durable, crew
        os.kill(durable.pid, signal.SIGCONT)
        return
    with EmbeddedBroker() as broker:
        own = Crew(broker.url, model_paths, tmp_path)
        yield broker, own
        own.stop()


def take_away(broker: EmbeddedBroker, how: str) -> None:
    broker.kill() if how == "killed" else os.kill(broker.pid, signal.SIGSTOP)


def ended_within(worker: WorkerProcess, bound_s: float) -> None:
    try:
        assert worker.wait(bound_s + SLACK_S) == 0, worker.text()
    except subprocess.TimeoutExpired:
        pytest.fail(f"the worker stays:\n{worker.text()}")


@pytest.mark.parametrize(("how", "signals"), [("killed", 1), ("frozen", 1), ("frozen", 2)])
def test_a_busy_worker_leaves_without_redis_and_its_job_goes_on_elsewhere(
    place: tuple[EmbeddedBroker, Crew], how: str, signals: int
):
    """With one signal within grace and engine stop, with a second one at once."""
    broker, crew = place
    if signals == 1:
        crew.stop()
        worker = crew.start(GENQUEUE_SHUTDOWN_GRACE_S="1", GENQUEUE_ENGINE_STOP_S="2").wait_until_ready()
    else:
        worker = crew.one()
    with Producer(broker.url) as producer, redis.Redis(port=broker.port) as client:
        with worker.engine_stopped():
            job = producer.submit("hi", model="tiny", **ENDLESS)
            wait_for(lambda: client.hget(f"rq:job:{job.job_id}", "status") == b"started", "the job to start")
            take_away(broker, how)
        for number in range(signals):
            worker.send(signal.SIGTERM)
            wait_for(lambda number=number: worker.text().count("SIGTERM") > number, "the signal to be heard")
        ended_within(worker, 3 if signals == 1 else 2)
        if how == "frozen":
            os.kill(broker.pid, signal.SIGCONT)
            crew.start()
            assert job.result(timeout_s=90).status == "finished"


@pytest.mark.parametrize("how", ["frozen", pytest.param("killed", marks=pytest.mark.long)])
def test_an_idle_worker_leaves_without_redis(place: tuple[EmbeddedBroker, Crew], how: str):
    broker, crew = place
    worker = crew.one().wait_until_idle()
    take_away(broker, how)
    worker.send(signal.SIGTERM)
    ended_within(worker, 0)


@pytest.mark.parametrize("how", ["frozen"])
def test_a_worker_that_waits_for_redis_leaves_at_once(place: tuple[EmbeddedBroker, Crew], how: str):
    broker, crew = place
    take_away(broker, how)
    worker = crew.start(GENQUEUE_BROKER_WAIT_S="600")
    wait_for(lambda: "for Redis at" in worker.text(), "the worker to have begun")
    worker.send(signal.SIGTERM)
    ended_within(worker, 0)
