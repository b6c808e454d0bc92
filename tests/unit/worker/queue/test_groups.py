"""Jobs of groups in RQ's own hands: enqueued, requeued, tried again, and what is left of a group."""

import pytest
from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ReadyJobRegistry, StartedJobRegistry

from producer.contract import InvalidRequest, JobTimeout, UnknownModel
from producer.ledger.take import Taken
from worker.intake import read_order
from worker.queue.bookkeeping import note_end
from worker.queue.groups import tend_groups

from ..jobs import DIGEST, KEYS, enqueue, in_queue, registered, result, taken_job

OF_A = "generate.tiny@a"
TURNS, BELL, LATER = KEYS.turns("tiny"), KEYS.bell("tiny"), KEYS.later("tiny")


def lined_up(client, worker, **options) -> Job:
    """A job that plain RQ has put there, and the maintenance has found."""
    job = enqueue(client, OF_A, **options)
    worker.maintain()
    return job


def test_what_plain_rq_enqueues_for_a_group_is_found_by_the_maintenance(client, worker):
    job = enqueue(client, OF_A)
    assert worker.take() is None
    worker.maintain()
    taken = worker.take()
    assert isinstance(taken, Taken)
    assert taken.job_id == job.id
    assert read_order(worker.read(taken), taken, worker.settings, tuple(worker.queue_names())).job_id == job.id


def test_other_models_and_prefixes_are_left_to_their_own_workers(client, worker):
    for name in ("generate.other@a", "mine.generate.tiny@a", "generate.tiny@a b", "mails@a"):
        enqueue(client, name)
    tend_groups(client, KEYS, "tiny")
    assert not client.exists(TURNS, BELL)
    assert client.scard("rq:queues") == 4


def test_a_job_of_a_group_that_rq_requeues_is_found(client, worker):
    lined_up(client, worker)
    job = taken_job(worker)
    execution = worker.begin(job, DIGEST)
    worker.fail(job, execution, InvalidRequest())
    worker.put_down(job.id)
    assert registered(FailedJobRegistry, client, OF_A) == [job.id]
    Job.fetch(job.id, client, "json").requeue()
    worker.maintain()
    assert taken_job(worker).id == job.id


@pytest.mark.parametrize("interval", [0, 600])
def test_a_retry_of_a_job_of_a_group_is_known_at_once(client, worker, interval):
    lined_up(client, worker, retry=Retry(1, interval=interval))
    job = taken_job(worker)
    execution = worker.begin(job, DIGEST)
    worker.fail(job, execution, JobTimeout())
    worker.put_down(job.id)
    assert client.zrange(TURNS, 0, -1) == ([] if interval else [b"a"])
    assert client.zrange(LATER, 0, -1) == ([OF_A.encode()] if interval else [])
    assert in_queue(client, OF_A) == ([] if interval else [job.id])


def test_a_job_of_a_group_that_depends_on_another_is_found_once_that_has_ended(client, worker):
    lined_up(client, worker)
    before = taken_job(worker)
    after = enqueue(client, OF_A, depends_on=before)
    execution = worker.begin(before, DIGEST)
    note_end(before, result(before))
    worker.succeed(before, execution, result(before))
    worker.put_down(before.id)
    assert taken_job(worker).id == after.id, "into the same queue, which is looked after"


def test_jobs_that_rq_was_about_to_enqueue_are_enqueued(client, worker):
    job = enqueue(client, OF_A)
    client.delete(f"rq:queue:{OF_A}")
    client.zadd(ReadyJobRegistry(OF_A, connection=client).key, {job.id: 1})
    client.hset(job.key, "status", JobStatus.READY_TO_ENQUEUE)
    worker.maintain()
    assert taken_job(worker).id == job.id


def test_a_job_of_a_group_that_is_deleted_with_its_end_lets_the_next_run(client, start):
    worker = start(group_max_running=1)
    lined_up(client, worker, result_ttl=0)
    enqueue(client, OF_A)
    job = taken_job(worker)
    assert worker.take() is None
    execution = worker.begin(job, DIGEST)
    worker.succeed(job, execution, result(job))
    assert not client.exists(job.key)
    worker.put_down(job.id)
    assert worker.take() is not None


def test_of_a_job_that_was_moved_on_nothing_is_left_in_its_groups_registry(client, worker):
    lined_up(client, worker)
    job = taken_job(worker)
    execution = worker.begin(job, DIGEST)
    worker.forget(execution)
    assert registered(StartedJobRegistry, client, OF_A) == []


def test_nothing_of_a_group_is_left_once_its_jobs_are_gone(client, worker):
    lined_up(client, worker)
    job = taken_job(worker)
    execution = worker.begin(job, DIGEST)
    worker.succeed(job, execution, result(job))
    worker.put_down(job.id)
    worker.maintain()
    assert [queue.name for queue in Queue.all(client)] == [OF_A], "RQ keeps the job"
    Job.fetch(job.id, client, "json").delete()
    worker.maintain()
    assert Queue.all(client) == []
    assert [key for key in client.keys("*") if b"@a" in key or b"{turns" in key or b"{running" in key] == []


def test_a_job_without_a_group_is_told_from_one_that_may_not_run(client, start):
    one, other = start(group_max_running=1), start("other", group_max_running=1)
    first = enqueue(client)
    enqueue(client)
    assert taken_job(one).id == first.id
    assert other.take() == "limited"
    one.put_down(first.id)
    assert client.exists(BELL)
    assert isinstance(other.take(), Taken)


def test_what_a_worker_knows_is_published(client, worker):
    assert b"group" in client.hget(worker.key, "request_fields").split(b",")


@pytest.mark.parametrize("origin", ["generate.other@a", "generate.tiny2@a", "x.generate.tiny@a"])
def test_a_group_of_another_model_is_not_served(client, worker, origin):
    job = enqueue(client)
    client.hset(job.key, "origin", origin)
    taken = worker.take()
    assert isinstance(taken, Taken)
    with pytest.raises(UnknownModel):
        read_order(worker.read(taken), taken, worker.settings, tuple(worker.queue_names()))
    assert worker.read(taken).get_status(refresh=False) == JobStatus.QUEUED
