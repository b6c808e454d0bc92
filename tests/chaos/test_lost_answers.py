"""RQ's bookkeeping went through and its answer was lost: it is tried again, and counts once.

Found by the storm: a server that was killed between a transaction and its answer left a job with two results.
"""

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job

from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION, GenerationResult, JobTimeout
from worker.queue.rq_worker import GenerationWorker, Taken
from worker.settings import WorkerSettings


@pytest.fixture
def worker(broker: EmbeddedBroker, redis_client: redis.Redis) -> GenerationWorker:
    """RQ's side of a worker, on a real server."""
    worker = GenerationWorker(WorkerSettings(model_name="tiny"), redis_client, on_stop=lambda: None)
    worker.register_birth()
    return worker


def begin(worker: GenerationWorker, client: redis.Redis, **options: object):
    queue = Queue("generate.tiny", connection=client, serializer="json")
    queue.enqueue(FUNCTION, request={"prompt": "hi"}, job_id="J", **options)
    taken = worker.take()
    assert isinstance(taken, Taken)
    job = worker.read(taken)
    return job, worker.begin(job, "digest of the request")


def test_a_success_is_registered_once(worker, redis_client):
    job, execution = begin(worker, redis_client)
    result = GenerationResult(job_id="J", status="finished", model="tiny", finish_reason="stop")
    for _ in range(2):
        worker.succeed(job, execution, result)
    assert redis_client.xlen("rq:results:J") == 1
    assert redis_client.hget(worker.key, "successful_job_count") == b"1"
    assert redis_client.keys("rq:execution*:J*") == []


@pytest.mark.parametrize("interval", [0, 60])
def test_a_retry_is_enqueued_once(worker, redis_client, interval):
    job, execution = begin(worker, redis_client, retry=Retry(max=3, interval=interval))
    for _ in range(2):
        job.retries_left = 3  # as it stands after an answer that was lost
        worker.fail(job, execution, JobTimeout())
    assert Job.fetch("J", connection=redis_client, serializer="json").retries_left == 2
    assert redis_client.lrange("rq:queue:generate.tiny", 0, -1) == ([] if interval else [b"J"])


def test_a_failure_is_registered_once(worker, redis_client):
    job, execution = begin(worker, redis_client)
    for _ in range(2):
        worker.fail(job, execution, JobTimeout())
    assert redis_client.xlen("rq:results:J") == 1
    assert redis_client.hget(worker.key, "failed_job_count") == b"1"
