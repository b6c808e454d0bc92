"""RQ's side of the worker: what stands in Redis after each step, as RQ and other workers read it."""

import json
import threading

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job
from rq.rate_limit import RateLimitRegistry
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.suspension import resume, suspend
from rq.utils import now, utcformat
from rq.worker.base import BaseWorker, WorkerStatus

from producer.contract import (
    FUNCTION,
    InvalidRequest,
    JobTimeout,
)
from producer.ledger.step import Step
from producer.ledger.sweep import schedule
from worker.queue.rq_worker import GenerationWorker
from worker.settings import WorkerSettings

from ..jobs import (
    DIGEST,
    HIGH,
    KEYS,
    LOW,
    NORMAL,
    beat,
    enqueue,
    in_list,
    in_queue,
    registered,
    result,
    taken_job,
    taken_job_of,
)
from ..server import Server

# -- what others see


def test_a_worker_is_seen_by_rq_with_what_producers_want_to_know(client, worker):
    worker.model_state = "ready"
    beat(worker)
    [seen] = BaseWorker.all(connection=client, serializer="json")
    fields = {name.decode(): value.decode() for name, value in client.hgetall(worker.key).items()}
    assert seen.name == worker.name
    assert seen.queue_names() == [HIGH, NORMAL, LOW]
    assert (fields["model"], fields["model_state"], fields["device"]) == ("tiny", "ready", "cuda:0")
    assert fields["state"] == "started"


@pytest.mark.parametrize(("known", "said"), [(None, None), (True, b"1"), (False, b"0")])
def test_its_record_says_whether_the_model_takes_messages(client, worker, known, said):
    worker.chat_template = known
    beat(worker)
    assert client.hget(worker.key, "chat_template") == said


@pytest.mark.parametrize(("known", "said"), [(None, None), ("hermes", b"hermes"), ("", b"")])
def test_its_record_says_how_the_model_writes_calls(client, worker, known, said):
    worker.tool_format = known
    beat(worker)
    assert client.hget(worker.key, "tool_format") == said


def test_its_record_says_how_much_fits_and_how_long_its_jobs_take(client, worker):
    names = ("context_length", "job_seconds", "busy_seconds")
    beat(worker)
    assert client.hmget(worker.key, names) == [None, None, b"0.000"]
    worker.context_length = 2048
    worker.pace.begin()
    worker.pace.end()
    beat(worker)
    context_length, job_seconds, busy_seconds = client.hmget(worker.key, names)
    assert (context_length, busy_seconds) == (b"2048", b"0.000")
    assert 0 <= float(job_seconds) < 60


def test_a_worker_is_forgotten_when_its_heartbeats_end(client, start):
    worker = start(heartbeat_ttl_s=6)
    client.expire(worker.key, 1)
    beat(worker, ttl_s=6)
    assert 1 < client.ttl(worker.key) <= 6


def test_a_heartbeat_brings_back_what_an_empty_redis_has_lost(client, worker):
    client.flushall()
    beat(worker)
    [seen] = BaseWorker.all(connection=client, serializer="json")
    assert seen.name == worker.name
    assert client.hget(worker.key, "model") == b"tiny"
    assert client.ttl(worker.key) > 0


def test_progress_stands_beside_what_the_user_keeps_in_meta(client, worker):
    job = taken_job_of(client, worker, meta={"mine": 1})
    worker.save_progress(job, {"phase": "decode", "tokens": 3})
    assert Job.fetch(job.id, client, "json").meta == {"mine": 1, "phase": "decode", "tokens": 3}


def test_no_progress_is_shown_of_a_job_that_was_put_down(client, worker, job):
    worker.put_down(job.id)
    worker.save_progress(job, {"tokens": 3})
    assert Job.fetch(job.id, client, "json").meta == {}


def test_no_progress_is_shown_of_a_job_that_a_sweep_has_moved_on(client, worker, job):
    client.delete(KEYS.taken(worker.name))
    worker.save_progress(job, {"tokens": 3})
    assert Job.fetch(job.id, client, "json").meta == {}


def test_progress_does_not_bring_back_a_job_that_was_deleted(client, worker, job):
    client.delete(job.key)
    worker.save_progress(job, {"tokens": 3})
    assert not client.exists(job.key)


def test_two_workers_of_one_name_have_names_of_their_own(start):
    assert start(name="same").name != start(name="same").name


def test_a_state_is_written_once(client, worker):
    worker.note_state(WorkerStatus.IDLE)
    client.hset(worker.key, "state", "somebody else's")
    worker.note_state(WorkerStatus.IDLE)
    assert client.hget(worker.key, "state") == b"somebody else's"
    worker.note_state(WorkerStatus.SUSPENDED)
    assert client.hget(worker.key, "state") == b"suspended"


@pytest.mark.parametrize("data", [b"\xff", b"{", b"[]", b"7", b'{"command": ["x"]}', b'{"command": "stop-job"}'])
def test_a_message_that_is_no_command_is_survived_and_the_next_one_heard(client, worker, job, data):
    worker.begin(job, DIGEST)
    worker.handle_payload({"data": data})
    assert not client.exists(KEYS.cancel(job.id))
    stop(worker, job.id)
    assert client.exists(KEYS.cancel(job.id))


def test_rqs_stop_command_reaches_the_running_generation(client, fake_server):
    stopped: list[bool] = []
    options = WorkerSettings(model_name="tiny")
    worker = GenerationWorker(options, Server(server=fake_server), on_stop=lambda: stopped.append(True))
    job = enqueue(client)
    execution = worker.begin(taken_job(worker), DIGEST)
    stop(worker, "another")
    assert not stopped
    stop(worker, job.id)
    assert stopped == [True]
    assert 0 < client.ttl(KEYS.cancel(job.id)) <= worker.settings.max_result_ttl_s
    client.delete(KEYS.cancel(job.id))
    message = {"command": "stop-execution", "job_id": job.id, "execution_id": execution.id}
    worker.handle_payload({"data": json.dumps(message).encode()})
    assert client.exists(KEYS.cancel(job.id))


def stop(worker: GenerationWorker, job_id: str) -> None:
    """As RQ's stop command comes on the worker's channel."""
    worker.handle_payload({"data": json.dumps({"command": "stop-job", "job_id": job_id}).encode()})


def test_a_stop_command_stops_the_job_that_it_names_and_no_other(client, worker):
    """A job runs while RQ hears of the end of the one before, which counts as running for RQ until then."""
    ended = taken_job_of(client, worker)
    worker.begin(ended, DIGEST)
    client.set(KEYS.result(ended.id), result(ended).model_dump_json())
    stop(worker, ended.id)  # too late, and the next job may have begun without RQ's knowing
    enqueue(client)
    running = taken_job(worker)
    worker.begin(running, DIGEST)
    stop(worker, ended.id)
    assert client.keys("*:cancel") == []
    stop(worker, running.id)
    assert client.keys("*:cancel") == [KEYS.cancel(running.id).encode()]


# -- taking


def test_jobs_are_taken_by_priority_and_then_in_order(client, worker):
    jobs = [enqueue(client, queue) for queue in (LOW, NORMAL, HIGH, NORMAL)]
    order = []
    while (taken := worker.take()) is not None:
        order.append(taken.job_id)
    assert order == [jobs[2].id, jobs[1].id, jobs[3].id, jobs[0].id]
    assert in_list(client, worker) == order
    assert client.smembers(KEYS.takers) == {worker.name.encode()}


def test_a_job_whose_answer_was_lost_is_given_again_and_no_other(client, worker):
    first, second = enqueue(client), enqueue(client)
    lost = worker.take()
    worker.in_hand.clear()
    again = worker.take()
    assert lost.raw == again.raw
    assert again.job_id == first.id
    assert in_queue(client) == [second.id]
    assert worker.take().job_id == second.id


def test_a_late_job_is_not_given_to_the_loop_beside(client, worker, monkeypatch):
    """Redis has moved it into our list, and the thread that ends late jobs has not read the answer yet."""
    late = enqueue(client)
    client.zadd(KEYS.deadlines("tiny"), {late.id: 1})
    moved, run = threading.Event(), Step.run

    def slow(step: Step, connection: Server) -> object:
        reply = run(step, connection)
        if step.name == "take_due":
            moved.set()
            beside.join(0.2)  # it cannot end before we go on
        return reply

    found = []
    beside = threading.Thread(target=lambda: (moved.wait(10), found.append(worker.take())))
    beside.start()
    monkeypatch.setattr(Step, "run", slow)
    assert [job.id for job in worker.take_late()] == [late.id]
    beside.join(10)
    assert found == [None]


def test_a_job_that_was_put_down_is_not_given_again(client, worker):
    job = enqueue(client)
    worker.take()
    worker.put_down(job.id)
    assert worker.take() is None
    assert not client.exists(KEYS.taken(worker.name))


def test_a_job_comes_with_its_hash(client, worker):
    job = enqueue(client)
    taken = worker.take()
    stored = client.hgetall(job.key)
    assert stored.pop(b"taken_by") == worker.name.encode()
    assert taken.raw == stored
    assert taken.size_bytes == sum(map(len, stored.values()))
    assert worker.read(taken).kwargs == {"request": {"prompt": "hi"}}


def test_a_job_is_read_without_redis(client, worker, monkeypatch):
    """Redis died between a first job being taken and being read: RQ asked it for its version there, where nobody
    tries again, and the worker ended."""
    worker.get_redis_server_version()
    enqueue(client)
    taken = worker.take()

    def gone(*_args, **_options):
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(type(worker.connection), "execute_command", gone)
    assert worker.read(taken).redis_server_version == worker.redis_server_version is not None


@pytest.mark.parametrize("put", [lambda client, key: None, lambda client, key: client.set(key, "foreign")])
def test_a_job_without_a_hash_is_taken_all_the_same(client, worker, put):
    client.rpush(f"rq:queue:{NORMAL}", "job-1")
    put(client, "rq:job:job-1")
    taken = worker.take()
    assert (taken.job_id, taken.raw, taken.size_bytes) == ("job-1", {}, 0)
    assert worker.fetch("job-1") is None


def test_what_is_no_job_id_is_dropped_and_the_next_one_taken(client, worker):
    client.rpush(f"rq:queue:{NORMAL}", b"\xff", b"")
    job = enqueue(client)
    assert worker.take().job_id == job.id
    assert in_list(client, worker) == [job.id]


def test_nothing_is_taken_while_rq_is_suspended(client, worker):
    job = enqueue(client)
    suspend(client)
    assert worker.take() == "suspended"
    assert in_queue(client) == [job.id]
    resume(client)
    assert worker.take().job_id == job.id


def test_the_list_of_taken_jobs_expires_some_time(client, worker):
    enqueue(client)
    worker.take()
    assert 0 < client.ttl(KEYS.taken(worker.name)) <= worker.settings.keep_held_s
    assert 0 < client.ttl(KEYS.takers) <= worker.settings.keep_held_s


@pytest.mark.parametrize("fields", [{"created_at": "yesterday"}, {"status": "dreaming"}, {"timeout": "soon"}])
def test_a_hash_that_rq_cannot_read_is_an_invalid_request(client, worker, fields):
    job = enqueue(client)
    client.hset(job.key, mapping=fields)
    with pytest.raises(InvalidRequest, match="enqueue through RQ"):
        worker.read(worker.take())
    with pytest.raises(InvalidRequest):
        worker.fetch(job.id)


def test_a_trouble_of_redis_is_no_fault_of_the_job(worker, fake_server):
    fake_server.connected = False
    with pytest.raises(redis.ConnectionError):
        worker.fetch("job-1")


# -- housekeeping


def test_a_retry_with_an_interval_waits_in_the_schedule_until_its_time(client, worker):
    job = taken_job_of(client, worker, retry=Retry(1, interval=60))
    worker.fail(job, worker.begin(job, DIGEST), JobTimeout())
    assert registered(ScheduledJobRegistry, client) == [job.id]
    assert schedule_due(worker) == 0
    assert in_queue(client) == []
    client.zadd(f"rq:scheduled:{NORMAL}", {job.id: 1})
    assert schedule_due(worker) == 1
    assert in_queue(client) == [job.id]
    assert taken_job(worker).id == job.id


def test_a_scheduled_job_that_cannot_be_read_goes_to_its_queue_and_holds_up_no_other(client, worker):
    queue = Queue(NORMAL, connection=client, serializer="json")
    good, bad = (queue.enqueue_at(now(), FUNCTION, request={"prompt": "hi"}) for _ in range(2))
    client.hset(bad.key, "created_at", "yesterday")
    assert schedule_due(worker) == 2
    assert sorted(in_queue(client)) == sorted([good.id, bad.id])
    assert registered(ScheduledJobRegistry, client) == []


def schedule_due(worker: GenerationWorker) -> int:
    return schedule(KEYS, "tiny", now=utcformat(now())).run(worker.connection).due


def test_maintenance_drops_what_has_expired_and_leaves_running_jobs(client, worker, job):
    worker.begin(job, DIGEST)
    client.zadd(f"rq:failed:{NORMAL}", {"old": 1})
    client.zadd(f"rq:wip:{NORMAL}", {f"{job.id}:x": 1})
    worker.maintain()
    assert registered(FailedJobRegistry, client) == []
    assert client.hget(job.key, "status") == b"started", "RQ would have declared it abandoned"


@pytest.mark.parametrize("put", [{"rq:rl:mine": "foreign"}, {"rq:rl:mine:allowed": "foreign"}, {}])
def test_a_rate_limit_that_is_none_holds_up_no_maintenance(client, worker, put):
    client.sadd("rq:rl-keys", "mine", "yours")
    client.hset("rq:rl:mine", "concurrency", "many")
    client.hset("rq:rl:yours", "concurrency", 1)
    client.zadd("rq:rl:mine:rate_limited", {"a": 1})
    job = enqueue(client)
    client.delete(f"rq:queue:{NORMAL}")
    client.hset(job.key, "status", "rate_limited")
    client.zadd("rq:rl:yours:rate_limited", {job.id: 1})
    for key, value in put.items():
        client.delete(key)
        client.set(key, value)
    worker.maintain()
    assert in_queue(client) == [job.id]


def test_a_user_of_before_there_were_rate_limits_keeps_none(worker, monkeypatch):
    def refuse(_: object) -> None:
        raise redis.exceptions.NoPermissionError("No permissions to access a key")

    monkeypatch.setattr(RateLimitRegistry, "all", refuse)
    worker.keep_rate_limits()


def test_what_a_worker_holds_is_known_for_longer_than_a_job_may_run(client, start):
    """Else a worker that dies late in a job leaves nothing by which another one finds it."""
    worker = start("long", max_result_ttl_s=600, max_job_timeout_s=3600)
    job = enqueue(client)
    worker.begin(taken_job(worker), DIGEST)
    for key in (KEYS.takers, KEYS.taken(worker.name), f"rq:executions:{job.id}"):
        assert client.ttl(key) > 3600
