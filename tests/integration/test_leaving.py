"""SIGTERM ends a worker's process in time, whatever Redis does."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker

from .test_worker import wait_for
from .worker_process import WorkerProcess

SLACK_S = 20
"""For a machine that is busy with other things. What is tested for is a worker that stays for good."""
ENDLESS = {"max_new_tokens": 900, "ignore_eos": True}


@pytest.fixture
def leaving_broker() -> Iterator[EmbeddedBroker]:
    """A server that a test takes away."""
    with EmbeddedBroker() as broker:
        pid = broker.pid
        yield broker
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def take_away(broker: EmbeddedBroker, how: str) -> None:
    broker.kill() if how == "killed" else os.kill(broker.pid, signal.SIGSTOP)


def ended_within(worker: WorkerProcess, bound_s: float) -> None:
    at = time.monotonic()
    assert worker.wait(bound_s + SLACK_S) == 0, worker.text()
    assert time.monotonic() - at < bound_s + SLACK_S


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_an_idle_worker_leaves_without_redis(leaving_broker, start_worker: Callable[..., WorkerProcess], how):
    worker = start_worker(leaving_broker.url).wait_until_ready()
    take_away(leaving_broker, how)
    worker.send(signal.SIGTERM)
    ended_within(worker, 0)


@pytest.mark.parametrize(("how", "signals"), [("killed", 1), ("frozen", 1), ("frozen", 2)])
def test_a_busy_worker_leaves_without_redis_and_its_job_goes_on_elsewhere(
    leaving_broker, start_worker: Callable[..., WorkerProcess], how, signals
):
    """With one signal within grace and engine stop, with a second one at once."""
    bounds = {"GENQUEUE_SHUTDOWN_GRACE_S": "1", "GENQUEUE_ENGINE_STOP_S": "2"} if signals == 1 else {}
    worker = start_worker(leaving_broker.url, **bounds).wait_until_ready()
    with Producer(leaving_broker.url) as producer, redis.Redis(port=leaving_broker.port) as client:
        with worker.engine_stopped():
            job = producer.submit("hi", model="tiny", **ENDLESS)
            wait_for(lambda: client.hget(f"rq:job:{job.job_id}", "status") == b"started", "the job to start")
            take_away(leaving_broker, how)
        for number in range(signals):
            worker.send(signal.SIGTERM)
            wait_for(lambda number=number: worker.text().count("SIGTERM") > number, "the signal to be heard")
        ended_within(worker, 3 if signals == 1 else 2)
        if how == "frozen":
            os.kill(leaving_broker.pid, signal.SIGCONT)
            start_worker(leaving_broker.url)
            assert job.result(timeout_s=90).status == "finished"


def test_a_worker_that_waits_for_redis_leaves_at_once(leaving_broker, start_worker: Callable[..., WorkerProcess]):
    take_away(leaving_broker, "frozen")
    worker = start_worker(leaving_broker.url, GENQUEUE_BROKER_WAIT_S="600")
    wait_for(lambda: "for Redis at" in worker.text(), "the worker to have begun")
    worker.send(signal.SIGTERM)
    ended_within(worker, 0)
