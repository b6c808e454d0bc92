"""Workers of this version and of an earlier one on one server: whoever is killed in mid-job, the other goes on.

    GENQUEUE_PREVIOUS=../genqueue-before .venv/bin/python -m pytest tests/chaos/test_versions_side_by_side.py

The variable names a checkout of the earlier version; it runs in this one's environment, with the same libraries.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from producer import JobHandle, Producer
from tests.integration.conftest import joined
from tests.integration.test_worker import LONG, wait_for, wait_for_tokens
from tests.integration.worker_process import WorkerProcess

from .checker import Expected, check
from .workload import Workload

PREVIOUS = os.environ.get("GENQUEUE_PREVIOUS")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PREVIOUS, reason="GENQUEUE_PREVIOUS names no checkout of an earlier version"),
]


def previous_producer(url: str, *arguments: str) -> "subprocess.Popen[str]":
    """The earlier version's command line."""
    return subprocess.Popen(
        [sys.executable, "-m", "producer", *arguments, "--redis-url", url],
        cwd=PREVIOUS,
        stdout=subprocess.PIPE,
        text=True,
    )


def job_in(victim: str, producer: Producer, client: redis.Redis) -> tuple[JobHandle, list[JobHandle]]:
    """A job that runs in that worker, and those that were submitted until one did."""
    others: list[JobHandle] = []
    while True:
        job = producer.submit(**LONG, model="tiny")
        wait_for_tokens(client, job.job_id)
        if next(job.stream()).event.data.worker == victim:
            return job, others
        others.append(job)


def streamed(lines: str) -> list[tuple[str, str, Any]]:
    """What `stream --json` has printed."""
    events = map(json.loads, lines.splitlines())
    return [(event["id"], event["type"], event["data"]) for event in events]


@pytest.fixture(params=["the previous dies", "this dies"])
def workers(request, durable, start_worker) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """The one that is to be killed, and the other."""
    previous = start_worker(durable.url, checkout=Path(PREVIOUS or "")).wait_until_ready()
    this = start_worker(durable.url).wait_until_ready()
    victim, survivor = (previous, this) if request.param == "the previous dies" else (this, previous)
    yield victim, survivor
    for worker in (victim, survivor):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)  # an earlier version's engine may outlive its worker


def test_the_other_version_goes_on(workers, durable, client, producer, model_paths):
    victim, survivor = workers
    job, others = job_in(victim.name, producer, client)
    follower = previous_producer(durable.url, "stream", job.job_id, "--json")
    victim.send(signal.SIGKILL)

    result = job.result(timeout_s=200)
    assert (result.status, result.attempts, result.worker) == ("finished", 2, survivor.name)
    events = list(job.stream())
    assert streamed(follower.communicate(timeout=100)[0]) == [
        (event["id"], event["type"], event["data"]) for event in (json.loads(e.to_json()) for e in events)
    ]
    assert follower.returncode == 0
    assert joined(events) == (result.text, list(result.token_ids))
    theirs = previous_producer(
        durable.url, "submit", "hi", "--model-name", "tiny", "--max-new-tokens", "2", "--wait", "--json"
    )
    assert json.loads(theirs.communicate(timeout=200)[0])["status"] == "finished"
    assert theirs.returncode == 0
    assert all(other.result(timeout_s=200).status == "finished" for other in others)
    wait_for(lambda: not list(client.scan_iter("gen:{taken:*")), "RQ's bookkeeping", 100)
    reference = Workload(random.Random(0), model_paths, size=0).reference(LONG, LONG["seed"])
    ids = [job.job_id, *(other.job_id for other in others)]
    violations = check(client, [Expected(job_id, *reference) for job_id in ids])
    # An earlier version knows nothing of who waits for a job: the key's time to live takes it away.
    assert [each for each in violations if not each.detail.endswith(":waiters is left behind")] == []
