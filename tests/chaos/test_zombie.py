"""A worker that was believed dead and wakes up leaves no trace, and works on.

Issue 3: SIGSTOP for three times to live, another worker finishes the job, SIGCONT: nothing changes in stream,
result, RQ's registries or counters, and the zombie goes on to serve its next job.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import Producer
from tests.integration.test_worker import LONG, wait_for, wait_for_tokens

from .fleet import Member

pytestmark = pytest.mark.long

TTL_S = 3
IMPATIENT = {"GENQUEUE_HEARTBEAT_TTL_S": str(TTL_S), "GENQUEUE_HEARTBEAT_INTERVAL_S": "0.5"}
REGISTRIES = ("wip", "finished", "failed", "canceled", "deferred", "scheduled")


def traces(client: redis.Redis, job_id: str) -> dict[str, object]:
    """All that stands in Redis about a job: its keys with their content, and the places that name it."""
    found: dict[str, object] = {key.decode(): client.dump(key) for key in client.scan_iter(f"*{job_id}*")}
    for registry in REGISTRIES:
        members = client.zrange(f"rq:{registry}:generate.tiny", 0, -1, withscores=True)
        found[registry] = [member for member in members if job_id.encode() in member[0]]
    for key in ["rq:queue:generate.tiny", *client.scan_iter("gen:{taken:*")]:
        if job_id.encode() in client.lrange(key, 0, -1):
            found[f"in {key}"] = True
    return found


def counters(client: redis.Redis, name: str) -> dict[str, int]:
    """RQ's counters of a worker's jobs."""
    fields = ("successful_job_count", "failed_job_count")
    values = client.hmget(f"rq:worker:{name}", *fields)
    return {field: int(value or 0) for field, value in zip(fields, values, strict=True)}


def stop_for_three_ttls(stopped_at: float) -> None:
    """Not a wait for anything: the length of the stop is what is tested."""
    time.sleep(max(0.0, stopped_at + 3 * TTL_S - time.monotonic()))


def serve_until(client: redis.Redis, producer: Producer, name: str) -> int:
    """Submit jobs until one was served by that worker, and RQ knows.  Returns how many others served meanwhile."""
    for others in range(1000):
        job = producer.submit("hi", model="tiny", max_new_tokens=2)
        worker = job.result(timeout_s=100).worker
        wait_for(lambda: client.hget(f"rq:job:{job.job_id}", "status") == b"finished", "RQ's bookkeeping")  # noqa: B023
        if worker == name:
            return others
    raise AssertionError(f"{name} serves no job")


@pytest.mark.parametrize("engine_too", [False, True], ids=["the worker", "the worker and its engine"])
def test_a_zombie_changes_nothing_and_serves_its_next_job(durable, client, producer, start_worker, engine_too):
    zombie = start_worker(durable.url, **IMPATIENT).wait_until_ready()
    other = start_worker(durable.url, **IMPATIENT)
    name = zombie.name
    job = producer.submit(**LONG, model="tiny")
    wait_for_tokens(client, job.job_id)
    if engine_too:
        os.kill(engine := zombie.engine_pid(), signal.SIGSTOP)
    zombie.send(signal.SIGSTOP)
    stopped_at = time.monotonic()
    other.wait_until_ready()

    result = job.result(timeout_s=100)
    assert (result.worker, result.attempts) == (other.name, 2)
    wait_for(lambda: client.hget(f"rq:job:{job.job_id}", "status") == b"finished", "RQ's bookkeeping")
    stop_for_three_ttls(stopped_at)
    before, counted = traces(client, job.job_id), counters(client, other.name)
    assert counted == {"successful_job_count": 1, "failed_job_count": 0}

    zombie.send(signal.SIGCONT)
    if engine_too:
        os.kill(engine, signal.SIGCONT)
    others = serve_until(client, producer, name)
    assert traces(client, job.job_id) == before
    assert counters(client, name) == {"successful_job_count": 1, "failed_job_count": 0}
    assert counters(client, result.worker) == {"successful_job_count": 1 + others, "failed_job_count": 0}
    assert "is dead (exited)" not in other.text(), "its process was there"


@pytest.fixture
def start_stopping_worker(model_paths: Path, tmp_path: Path, durable, monkeypatch) -> Iterator:
    """Starts a worker that stops itself at a point."""
    started: list[Member] = []

    def start(point: str) -> Member:
        for name, value in IMPATIENT.items():
            monkeypatch.setenv(name, value)
        log = tmp_path / f"stopping{len(started)}.log"
        started.append(Member(durable.url, model_paths, log, point, 1, number=signal.SIGSTOP))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


@pytest.mark.parametrize(
    "point",
    [
        "between pop and start",
        "before RQ hears of the start",
        "between a token and its append",
        "between the end and RQ's bookkeeping",
    ],
)
def test_a_zombie_that_was_stopped_between_two_steps_changes_nothing(
    client, producer, start_worker, start_stopping_worker, point
):
    """Each of these points lies after a look at Redis and before the write that builds on it."""
    zombie = start_stopping_worker(point).wait_until_ready()
    name = zombie.name
    job = producer.submit("hi", model="tiny", max_new_tokens=4)
    wait_for(zombie.note.exists, "the worker to stop itself")
    stopped_at = time.monotonic()
    other = start_worker(zombie.redis_url, **IMPATIENT).wait_until_ready()
    status = f"rq:job:{job.job_id}"
    wait_for(lambda: client.hget(status, "status") == b"finished", "the other to bring the job to its end")
    stop_for_three_ttls(stopped_at)
    before = traces(client, job.job_id)
    zombie.send(signal.SIGCONT)
    serve_until(client, producer, name)
    assert traces(client, job.job_id) == before
    assert other.process.poll() is None
