"""A dashboard on a Redis in memory, and jobs that have ended in each way, as our workers have RQ note them."""

from typing import Any

import pytest
from fakeredis import FakeRedis, FakeServer
from flask.testing import FlaskClient
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.results import Result

from producer.contract import FUNCTION, GenerationResult, Usage
from producer.dashboard import make_app

URL = "redis://:hunter2@127.0.0.1:6379/0"
PROMPT = "a prompt of somebody's own"


@pytest.fixture(autouse=True)
def _fake_redis(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.dashboard.mending.client", lambda _: FakeRedis(server=fake_server))


@pytest.fixture
def queue(fake_server: FakeServer) -> Queue:
    """A queue of ours."""
    return Queue("generate.tiny", connection=FakeRedis(server=fake_server), serializer="json")


@pytest.fixture
def client() -> FlaskClient:
    """A browser on this machine, and a dashboard without a password."""
    return make_app(URL).test_client()


def enqueue(queue: Queue, job_id: str, **request: Any) -> Job:
    """As our own producer does, whose description holds no prompt."""
    request = request or {"prompt": PROMPT}
    return queue.enqueue(FUNCTION, request=request, job_id=job_id, description="generate with tiny")


def finish(queue: Queue, job_id: str, **fields: Any) -> Job:
    """A job that ended well.  fields: of its result."""
    job = enqueue(queue, job_id)
    usage = Usage(prompt_tokens=7, completion_tokens=9)
    result = GenerationResult(job_id=job_id, status="finished", model="tiny", finish_reason="stop", usage=usage)
    value = {**result.model_dump(mode="json"), **fields}
    Result.create(job, Result.Type.SUCCESSFUL, ttl=600, return_value=value)
    return _end(queue, job, JobStatus.FINISHED)


def fail(queue: Queue, job_id: str, why: str = "out_of_memory: ask for less") -> Job:
    """A job that failed."""
    job = enqueue(queue, job_id)
    Result.create(job, Result.Type.FAILED, ttl=600, exc_string=why)
    FailedJobRegistry(queue=queue).add(job, ttl=600, exc_string=why)
    return _end(queue, job, JobStatus.FAILED)


def stop(queue: Queue, job_id: str) -> Job:
    """A job that was cancelled while it ran: RQ keeps it among those that failed."""
    job = fail(queue, job_id, "cancelled")
    return _end(queue, job, JobStatus.STOPPED)


def cancel(queue: Queue, job_id: str) -> Job:
    """A job that was cancelled while it waited."""
    job = enqueue(queue, job_id)
    job.cancel()
    return job


def _end(queue: Queue, job: Job, status: JobStatus) -> Job:
    queue.remove(job)
    job.set_status(status)
    return job
