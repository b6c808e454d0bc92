"""What a live worker finds in the list of a dead one, in every state in which a job can have been left."""

import json
import threading
import time

import pytest
from redis.client import Pipeline
from rq import Retry
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

from producer.contract import GenerationResult, JobTimeout
from worker.intake import read_order
from worker.queue.rq_worker import GenerationWorker
from worker.queue.sweeping import Recovery

from ..jobs import KEYS, NORMAL, enqueue, in_queue, taken_job
from ..server import Server


@pytest.fixture
def dead(start) -> GenerationWorker:
    """It will die once `die` has been called on it."""
    return start("dead")


def die(client: Server, worker: GenerationWorker) -> None:
    """Its key expires, as after its last heartbeat."""
    client.delete(worker.key)


def write_result(client: Server, job_id: str, status: str = "finished") -> GenerationResult:
    reasons = {"finished": "stop", "failed": "error", "cancelled": "cancelled"}
    error = {"code": "timeout", "message": "too slow"} if status == "failed" else None
    fields = {"job_id": job_id, "status": status, "model": "tiny", "finish_reason": reasons[status]}
    result = GenerationResult.model_validate({**fields, "error": error})
    client.set(KEYS.result(job_id), result.model_dump_json())
    return result


def assert_nothing_is_left(client: Server, *workers: GenerationWorker) -> None:
    assert client.smembers(KEYS.takers) == set()
    assert not any(client.exists(KEYS.taken(worker.name)) for worker in workers)
    assert StartedJobRegistry(NORMAL, client, serializer="json").get_job_ids(cleanup=False) == []


def test_a_job_that_was_popped_and_not_started_goes_to_the_front(client, worker, dead):
    job, later = enqueue(client), enqueue(client)
    taken_job(dead)
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client) == [job.id, later.id]
    assert client.hgetall(job.key)[b"deaths"] == b"1"
    assert_nothing_is_left(client, worker, dead)


def test_a_running_job_goes_to_the_front_and_nothing_runs_it(client, worker, dead):
    job = enqueue(client)
    execution = dead.begin(taken_job(dead))
    die(client, dead)
    Recovery(worker).sweep()
    seen = Job.fetch(job.id, client, "json")
    assert in_queue(client) == [job.id]
    assert (seen.get_status(), seen.worker_name) == (JobStatus.QUEUED, None)
    assert seen.get_executions() == []
    assert not client.exists(execution.key)
    assert_nothing_is_left(client, worker, dead)


@pytest.mark.parametrize("queue", ["generate.tiny.high", "generate.tiny.low"])
def test_a_job_goes_back_to_the_queue_of_its_priority(client, worker, dead, queue):
    job = enqueue(client, queue)
    taken_job(dead)
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client, queue) == [job.id]


def test_a_job_of_another_model_goes_back_to_its_own_queue(client, worker, start):
    other = start("dead", model="other")
    job = enqueue(client, "generate.other")
    taken_job(other)
    die(client, other)
    Recovery(worker).sweep()
    assert in_queue(client, "generate.other") == [job.id]
    assert in_queue(client) == []


def test_each_death_counts(client, worker, start):
    job = enqueue(client)
    for _ in range(3):
        victim = start("dead")
        taken_job(victim)
        die(client, victim)
        Recovery(worker).sweep()
    assert client.hget(job.key, "deaths") == b"3"


def test_a_live_worker_keeps_its_jobs(client, worker, start):
    busy = start("busy")
    job = enqueue(client)
    execution = busy.begin(taken_job(busy))
    Recovery(worker).sweep()
    assert in_queue(client) == []
    assert client.exists(execution.key)
    assert client.lrange(KEYS.taken(busy.name), 0, -1) == [job.id.encode()]


def test_a_worker_does_not_bury_itself(client, worker):
    enqueue(client)
    taken_job(worker)
    die(client, worker)
    Recovery(worker).sweep()
    assert in_queue(client) == []


IN_RQ = {
    "finished": (JobStatus.FINISHED, FinishedJobRegistry),
    "failed": (JobStatus.FAILED, FailedJobRegistry),
    "cancelled": (JobStatus.STOPPED, FailedJobRegistry),
}


@pytest.mark.parametrize("status", IN_RQ)
@pytest.mark.parametrize("begun", [True, False])
def test_an_end_of_which_rq_has_not_heard_is_registered(client, worker, dead, status, begun):
    """Died between the terminal event and RQ's bookkeeping; or even before RQ had heard of the start."""
    job = take_of(client, dead)
    if begun:
        dead.begin(job)
    result = write_result(client, job.id, status)
    die(client, dead)
    Recovery(worker).sweep()
    seen = Job.fetch(job.id, client, "json")
    expected, registry = IN_RQ[status]
    assert seen.get_status() == expected
    assert job.id in registry(NORMAL, client, serializer="json")
    if status == "finished":
        assert GenerationResult.model_validate(seen.return_value()) == result
    assert in_queue(client) == []
    assert seen.get_executions() == []
    assert_nothing_is_left(client, worker, dead)


def take_of(client: Server, worker: GenerationWorker, **options) -> Job:
    enqueue(client, **options)
    return taken_job(worker)


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_an_end_that_was_registered_and_not_put_down_is_left_alone(client, worker, dead, status):
    job = take_of(client, dead)
    execution = dead.begin(job)
    result = write_result(client, job.id, status)
    if status == "finished":
        dead.succeed(job, execution, result)
    else:
        dead.fail(job, execution, JobTimeout())
    before = client.hgetall(job.key)
    die(client, dead)
    Recovery(worker).sweep()
    assert client.hgetall(job.key) == before
    assert in_queue(client) == []
    assert len(Job.fetch(job.id, client, "json").results()) == 1


def test_a_job_that_has_ended_by_its_status_and_has_lost_its_result_is_not_run_again(client, worker, dead):
    job = take_of(client, dead)
    client.hset(job.key, "status", "finished")
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client) == []
    assert_nothing_is_left(client, worker, dead)


@pytest.mark.parametrize("hash_", [None, {"hello": "world"}, {"data": "{}", "created_at": "yesterday"}])
def test_a_job_that_nobody_can_read_goes_to_a_queue_where_it_is_refused(client, worker, dead, hash_):
    """Popped, and its worker died before it could refuse it: it still has to have an end."""
    if hash_:
        client.hset("rq:job:job-1", mapping=hash_)
    client.rpush(f"rq:queue:{NORMAL}", "job-1")
    dead.take()
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client) == ["job-1"]
    assert client.hgetall("rq:job:job-1") == {k.encode(): v.encode() for k, v in (hash_ or {}).items()}
    assert_nothing_is_left(client, worker, dead)


def test_a_job_that_nobody_can_read_and_that_has_its_end_is_put_down(client, worker, dead):
    client.rpush(f"rq:queue:{NORMAL}", "job-1")
    dead.take()
    write_result(client, "job-1", "failed")
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client) == []
    assert_nothing_is_left(client, worker, dead)


def test_what_is_no_job_id_is_dropped(client, worker):
    client.sadd(KEYS.takers, "dead")
    client.rpush(KEYS.taken("dead"), b"\xff", b"")
    Recovery(worker).sweep()
    assert_nothing_is_left(client, worker)
    assert not client.exists(KEYS.taken("dead"))


def write_list(client: Server, key: str) -> None:
    client.rpush(key, "foreign")


@pytest.mark.parametrize("foreign", [lambda client, key: client.set(key, "no JSON"), write_list])
def test_what_stands_in_place_of_a_result_is_no_end(client, worker, dead, foreign):
    job = take_of(client, dead)
    foreign(client, KEYS.result(job.id))
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client) == [job.id]
    assert not client.exists(KEYS.result(job.id))


@pytest.mark.parametrize("key", ["rq:executions:{}", "rq:results:{}", "rq:job:{}:dependents"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_job_with_a_foreign_key_does_not_hold_up_the_others(client, worker, dead, key, ended):
    first, second = take_of(client, dead), enqueue(client)
    dead.take([first.id])
    client.set(key.format(first.id), "foreign")
    if ended:
        write_result(client, first.id)
    die(client, dead)
    recovery = Recovery(worker)
    recovery.sweep()
    recovery.sweep()
    assert second.id in in_queue(client)
    assert (first.id in in_queue(client)) == (not ended)
    assert_nothing_is_left(client, worker, dead)


def test_a_retry_that_rq_has_not_heard_of_is_made_up_for(client, worker, dead):
    """The attempt timed out and left no terminal event: the job is as good as running."""
    job = take_of(client, dead, retry=Retry(2))
    dead.begin(job)
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client) == [job.id]
    assert Job.fetch(job.id, client, "json").retries_left == 2


@pytest.mark.parametrize("ended", [True, False])
def test_two_sweepers_at_once_move_or_settle_a_job_once(client, start, dead, ended):
    jobs = [enqueue(client) for _ in range(10)]
    known: list[str] = []
    for _ in jobs:
        known.append(taken_job(dead, *known).id)
    for job_id in known if ended else ():
        write_result(client, job_id)
    die(client, dead)
    sweepers = [Recovery(start(name)) for name in ("one", "other")]
    gate = threading.Barrier(len(sweepers))
    failures: list[BaseException] = []

    def sweep(recovery: Recovery) -> None:
        gate.wait(60)
        try:
            recovery.sweep()
        except BaseException as error:  # noqa: BLE001 - shown to the test
            failures.append(error)

    threads = [threading.Thread(target=sweep, args=(recovery,)) for recovery in sweepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sorted(in_queue(client)) == ([] if ended else sorted(known))
    for job_id in known:
        job = Job.fetch(job_id, client, "json")
        assert len(job.results()) == (1 if ended else 0)
        assert client.hget(job.key, "deaths") == (None if ended else b"1")
    assert_nothing_is_left(client, dead)


def test_an_end_is_settled_by_the_sweeper_that_has_claimed_it(client, start, dead, monkeypatch):
    """The slow one has seen it in the list of the dead; before it claims it, the fast one does, and is at it."""
    job = take_of(client, dead)
    write_result(client, job.id)
    die(client, dead)
    fast, slow = start("fast"), start("slow")
    slow_recovery = Recovery(slow)
    settling, may_settle = threading.Event(), threading.Event()
    succeed, ended = fast.succeed, slow_recovery._result_or_discard

    def succeed_later(*args: object) -> None:
        settling.set()
        assert may_settle.wait(60)
        succeed(*args)

    def overtaken(job_id: str) -> GenerationResult | None:
        if not settling.is_set():
            thread.start()
            assert settling.wait(60)
        return ended(job_id)

    thread = threading.Thread(target=Recovery(fast).sweep)
    monkeypatch.setattr(fast, "succeed", succeed_later)
    monkeypatch.setattr(slow_recovery, "_result_or_discard", overtaken)
    slow_recovery.sweep()
    may_settle.set()
    thread.join(60)
    assert len(Job.fetch(job.id, client, "json").results()) == 1
    assert_nothing_is_left(client, fast, slow, dead)


def test_a_sweeper_that_dies_over_an_end_leaves_it_to_the_next(client, worker, start, dead, monkeypatch):
    job = take_of(client, dead)
    write_result(client, job.id)
    die(client, dead)
    sweeper = start("sweeper")
    with monkeypatch.context() as dying:
        dying.setattr(sweeper, "succeed", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            Recovery(sweeper).sweep()
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.QUEUED
    die(client, sweeper)
    recovery = Recovery(worker)
    recovery.sweep()
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.FINISHED
    assert_nothing_is_left(client, worker, sweeper, dead)


@pytest.mark.parametrize("status", IN_RQ)
def test_a_sweeper_that_was_taken_for_dead_over_an_end_leaves_no_trace(client, start, dead, monkeypatch, status):
    """Stopped after its last look at the claimed end, right before it would tell RQ; another has told it since."""
    job = take_of(client, dead)
    write_result(client, job.id, status)
    die(client, dead)
    slow, other = start("slow"), start("other")
    execute, left = Pipeline.execute, {}

    def overtaken(pipeline: Pipeline, raise_on_error: bool = True) -> list:
        if not left and "XADD" in {args[0] for args, _ in pipeline.command_stack}:
            left["is being told"] = True
            die(client, slow)
            Recovery(other).sweep()
            left["traces"] = {key: client.dump(key) for key in client.keys("*") if b"slow" not in key}
        return execute(pipeline, raise_on_error)

    monkeypatch.setattr(Pipeline, "execute", overtaken)
    Recovery(slow).sweep()
    assert left["traces"] == {key: client.dump(key) for key in client.keys("*") if b"slow" not in key}
    assert len(Job.fetch(job.id, client, "json").results()) == 1
    assert_nothing_is_left(client, slow, other, dead)


def test_a_result_that_has_come_since_the_look_is_not_deleted(client, worker, dead, monkeypatch):
    """A sweeper that was stopped over what stood in place of a result: the job's own end stands there now."""
    job = take_of(client, dead)
    client.set(KEYS.result(job.id), "no JSON")
    recovery = Recovery(worker)
    discard = recovery._discard
    monkeypatch.setattr(recovery, "_discard", lambda **_: (write_result(client, job.id), discard(**_)))
    recovery._result_or_discard(job.id)
    assert recovery._result_or_discard(job.id).status == "finished"


def test_a_job_whose_retry_rq_has_noted_is_not_put_back_once_more(client, worker, dead):
    """Its worker died before it had put the job down: the retry and the putting down are one step."""
    job = take_of(client, dead, retry=Retry(2))
    dead.fail(job, dead.begin(job), JobTimeout())
    die(client, dead)
    Recovery(worker).sweep()
    assert in_queue(client) == [job.id]
    assert not client.hexists(job.key, "deaths")


def test_a_sweep_when_nobody_has_died_writes_nothing(client, worker, start):
    busy = start("busy")
    enqueue(client)
    taken_job(busy)
    before = {key: client.dump(key) for key in client.keys("*")}
    Recovery(worker).sweep()
    assert {key: client.dump(key) for key in client.keys("*")} == before


# -- waiting for too long


def test_jobs_that_have_waited_for_too_long_are_found_and_stay_until_they_are_dropped(client, worker):
    late = enqueue(client, meta={"expires_at": time.time() - 1})
    enqueue(client, meta={"expires_at": time.time() + 1000})
    enqueue(client)
    for meta in ("no JSON", "[]", json.dumps({"expires_at": "soon"})):
        client.hset(enqueue(client).key, "meta", meta)
    recovery = Recovery(worker)
    assert [job.id for job in recovery.expired()] == [late.id]
    assert late.id in in_queue(client)
    recovery.drop(late)
    assert late.id not in in_queue(client)
    assert recovery.expired() == []


@pytest.mark.parametrize("begun", [True, False], ids=["running", "popped and not yet started"])
def test_a_job_that_was_taken_in_time_does_not_expire_when_its_worker_dies(client, worker, dead, begun):
    """`queue_ttl_s` bounds the wait for a worker, and that was over: its user may have read half of the text."""
    job = take_of(client, dead, meta={"expires_at": time.time() + 1000})
    if begun:
        dead.begin(job)
    die(client, dead)
    Recovery(worker).sweep()
    client.hset(job.key, "meta", json.dumps({"expires_at": time.time() - 1}))
    assert Recovery(worker).expired() == []
    assert read_order(taken_job(worker), worker.settings, (NORMAL,)).job_id == job.id


def test_a_long_queue_is_looked_at_in_parts(client, worker, monkeypatch):
    monkeypatch.setattr("worker.queue.sweeping.WINDOW", 3)
    jobs = [enqueue(client) for _ in range(8)]
    late = enqueue(client, meta={"expires_at": 1})
    recovery = Recovery(worker)
    looks = 0
    while not (found := recovery.expired()):
        looks += 1
        assert looks < 10
    assert [job.id for job in found] == [late.id]
    assert looks == len(jobs) // 3
