"""What a live worker finds in the list of a dead one, in every state in which a job can have been left."""

import threading

import pytest
from redis.client import Pipeline
from rq import Retry
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

from producer.contract import GenerationResult, JobTimeout, encode_entry, terminal_event
from worker.intake import read_order
from worker.neighbours import Dead
from worker.queue import sweeping
from worker.queue.rq_worker import GenerationWorker
from worker.queue.sweeping import Sweeper

from ..jobs import DIGEST, KEYS, NORMAL, beat, bury, die, enqueue, in_list, in_queue, member_of, taken_job
from ..server import Server


@pytest.fixture
def dead(start) -> GenerationWorker:
    """It will die once `die` has been called on it."""
    return start("dead")


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
    bury(worker, dead)
    assert in_queue(client) == [job.id, later.id]
    assert not client.hexists(job.key, "deaths"), "it was not the job that the worker died of"
    assert_nothing_is_left(client, worker, dead)


def test_a_running_job_goes_to_the_front_and_nothing_runs_it(client, worker, dead):
    job = enqueue(client)
    execution = dead.begin(taken_job(dead), DIGEST)
    die(client, dead)
    bury(worker, dead)
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
    bury(worker, dead)
    assert in_queue(client, queue) == [job.id]


def test_a_job_of_another_model_goes_back_to_its_own_queue(client, worker, start):
    other = start("dead", model="other")
    job = enqueue(client, "generate.other")
    taken_job(other)
    die(client, other)
    bury(worker, other)
    assert in_queue(client, "generate.other") == [job.id]
    assert in_queue(client) == []


def test_each_death_over_a_running_job_counts(client, worker, start):
    job = enqueue(client)
    for _ in range(3):
        victim = start("dead")
        victim.begin(taken_job(victim), DIGEST)
        die(client, victim)
        bury(worker, victim)
    assert client.hget(job.key, "deaths") == b"3"


def test_a_live_worker_keeps_its_jobs(client, worker, start):
    busy = start("busy")
    job = enqueue(client)
    execution = busy.begin(taken_job(busy), DIGEST)
    bury(worker, busy)
    assert in_queue(client) == []
    assert client.exists(execution.key)
    assert client.lrange(KEYS.taken(busy.name), 0, -1) == [job.id.encode()]


def test_a_worker_does_not_bury_itself(client, worker):
    enqueue(client)
    taken_job(worker)
    die(client, worker)
    client.delete(KEYS.beats)
    assert Sweeper(worker).dead_of_earlier_versions() == []


def test_a_worker_of_an_earlier_version_is_dead_once_its_record_has_expired(client, worker, start):
    """It beats by its record alone. One that beats as we do is left to its beat."""
    busy, earlier = start("busy"), start("earlier")
    jobs = [enqueue(client) for _ in range(2)]
    for each in (busy, earlier):
        each.begin(taken_job(each), DIGEST)
    client.zrem(KEYS.beats, str(member_of(earlier)))
    sweeper = Sweeper(worker)
    assert sweeper.dead_of_earlier_versions() == []
    client.delete(earlier.key, busy.key)
    assert sweeper.dead_of_earlier_versions() == [], "not at the first look"
    for dead in sweeper.dead_of_earlier_versions():
        assert dead.sign == "expired"
        sweeper.sweep(dead)
    assert in_queue(client) == [jobs[1].id]
    assert in_list(client, busy) == [jobs[0].id]


def test_the_record_of_an_earlier_version_that_never_expires_is_no_beat(client, worker, dead):
    """RQ has written into it after its time was over."""
    job = take_of(client, dead)
    client.delete(KEYS.beats, dead.key)
    client.hset(dead.key, "current_job", job.id)
    sweeper = Sweeper(worker)
    sweeper.dead_of_earlier_versions()
    [found] = sweeper.dead_of_earlier_versions()
    sweeper.sweep(found)
    assert in_queue(client) == [job.id]


def test_a_worker_that_has_not_beaten_yet_is_not_taken_for_one_of_an_earlier_version(client, worker, dead):
    """After a Redis that came back empty it may have begun a job, which makes a record, before its next beat."""
    take_of(client, dead)
    client.delete(KEYS.beats, dead.key)
    sweeper = Sweeper(worker)
    assert sweeper.dead_of_earlier_versions() == []
    beat(dead)
    assert sweeper.dead_of_earlier_versions() == []
    client.delete(KEYS.beats, dead.key)
    assert sweeper.dead_of_earlier_versions() == []
    assert [each.member for each in sweeper.dead_of_earlier_versions()] == [member_of(dead)]


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
        dead.begin(job, DIGEST)
    result = write_result(client, job.id, status)
    die(client, dead)
    bury(worker, dead)
    seen = Job.fetch(job.id, client, "json")
    expected, registry = IN_RQ[status]
    assert seen.get_status() == expected
    assert job.id in registry(NORMAL, client, serializer="json")
    if status == "finished":
        assert GenerationResult.model_validate(seen.return_value()) == result
    assert in_queue(client) == []
    assert seen.get_executions() == []
    assert_nothing_is_left(client, worker, dead)


@pytest.mark.parametrize("put", [{"meta": "[]"}, {"meta": "no JSON"}, {"data": ""}, {"retry_intervals": "1"}])
@pytest.mark.parametrize("status", IN_RQ)
def test_an_end_over_which_rq_stumbles_holds_up_no_other(client, worker, dead, status, put):
    broken, sound = take_of(client, dead), take_of(client, dead)
    for job in (broken, sound):
        dead.begin(job, DIGEST)
        write_result(client, job.id, status)
    client.hset(broken.key, mapping=put)
    die(client, dead)
    bury(worker, dead)
    assert Job.fetch(sound.id, client, "json").get_status() == IN_RQ[status][0]
    assert client.hget(broken.key, "status") != b"started"
    assert client.ttl(broken.key) > 0
    assert_nothing_is_left(client, worker, dead)
    assert not client.exists(KEYS.settling(worker.name))


def take_of(client: Server, worker: GenerationWorker, **options) -> Job:
    enqueue(client, **options)
    return taken_job(worker)


@pytest.mark.parametrize("status", IN_RQ)
def test_an_end_that_was_registered_and_not_put_down_is_left_alone(client, worker, dead, status):
    job = take_of(client, dead)
    execution = dead.begin(job, DIGEST)
    result = write_result(client, job.id, status)
    if status == "finished":
        dead.succeed(job, execution, result)
    elif status == "failed":
        dead.fail(job, execution, JobTimeout())
    else:
        dead.stopped(job, execution)
    client.rpush(KEYS.taken(dead.name), job.id)
    before = client.hgetall(job.key)
    die(client, dead)
    bury(worker, dead)
    assert client.hgetall(job.key) == {**before, b"swept_from": dead.name.encode()}
    assert in_queue(client) == []
    assert len(Job.fetch(job.id, client, "json").results()) == 1


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled"])
def test_a_job_that_has_ended_for_rq_alone_goes_back_to_its_queue(client, worker, dead, status, begun):
    """RQ's upkeep of its registries has given it up, say. Without an end of ours, a subscriber waits for one."""
    job = take_of(client, dead)
    if begun:
        dead.begin(job, DIGEST)
    client.hset(job.key, "status", status)
    client.zadd(f"rq:failed:{NORMAL}", {job.id: 2e9})
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == [job.id]
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.QUEUED
    assert FailedJobRegistry(NORMAL, client, serializer="json").get_job_ids(cleanup=False) == []
    assert_nothing_is_left(client, worker, dead)


def test_no_upkeep_of_rqs_gives_up_a_job_that_runs(client, worker, dead):
    """Of `rq info`, of an exporter or of a host whose clock is ahead."""
    job = take_of(client, dead)
    dead.begin(job, DIGEST)
    StartedJobRegistry(NORMAL, client, serializer="json").cleanup(timestamp=4e9)
    assert client.hget(job.key, "status") == b"started"
    die(client, dead)
    StartedJobRegistry(NORMAL, client, serializer="json").cleanup(timestamp=4e9)
    bury(worker, dead)
    assert in_queue(client) == [job.id]
    assert_nothing_is_left(client, worker, dead)


@pytest.mark.parametrize("hash_", [None, {"hello": "world"}, {"data": "{}", "created_at": "yesterday"}])
def test_a_job_that_nobody_can_read_goes_to_a_queue_where_it_is_refused(client, worker, dead, hash_):
    """Popped, and its worker died before it could refuse it: it still has to have an end."""
    if hash_:
        client.hset("rq:job:job-1", mapping=hash_)
    client.rpush(f"rq:queue:{NORMAL}", "job-1")
    dead.take()
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == ["job-1"]
    left = {name.decode(): value.decode() for name, value in client.hgetall("rq:job:job-1").items()}
    assert {name: left[name] for name in hash_ or {}} == (hash_ or {})
    assert client.exists("rq:job:job-1") == bool(hash_)
    assert_nothing_is_left(client, worker, dead)


def test_a_job_that_nobody_can_read_and_that_has_its_end_is_put_down(client, worker, dead):
    client.rpush(f"rq:queue:{NORMAL}", "job-1")
    dead.take()
    write_result(client, "job-1", "failed")
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == []
    assert_nothing_is_left(client, worker, dead)


def test_what_is_no_job_id_ends_up_in_a_queue_whose_next_reader_drops_it(client, worker, dead):
    client.sadd(KEYS.takers, dead.name)
    client.rpush(KEYS.taken(dead.name), b"\xff", b"")
    die(client, dead)
    bury(worker, dead)
    assert worker.take() is None
    assert in_queue(client) == in_list(client, worker) == []
    assert_nothing_is_left(client, worker, dead)


def write_list(client: Server, key: str) -> None:
    client.rpush(key, "foreign")


@pytest.mark.parametrize("foreign", [lambda client, key: client.set(key, "no JSON"), write_list])
def test_what_stands_in_place_of_a_result_is_no_end(client, worker, dead, foreign):
    job = take_of(client, dead)
    foreign(client, KEYS.result(job.id))
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == [job.id]
    assert not client.exists(KEYS.result(job.id))


def test_what_is_too_large_to_be_a_result_is_no_end_and_is_not_loaded(client, worker, dead, monkeypatch):
    monkeypatch.setattr(sweeping, "MAX_RESULT_BYTES", 100)
    job = take_of(client, dead)
    client.set(KEYS.result(job.id), "x" * 101)
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == [job.id]
    assert not client.exists(KEYS.result(job.id))


@pytest.mark.parametrize("event_id", ["1-0", f"{2**64 - 1}-0"], ids=["", "the largest that Redis takes"])
def test_an_end_whose_result_was_evicted_is_registered_by_its_terminal_event(client, worker, dead, event_id):
    job = take_of(client, dead)
    result = write_result(client, job.id)
    client.xadd(KEYS.events(job.id), encode_entry(terminal_event(result)), id=event_id)
    client.delete(KEYS.result(job.id))
    die(client, dead)
    bury(worker, dead)
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.FINISHED
    assert_nothing_is_left(client, worker, dead)


@pytest.mark.parametrize("event_id", ["1-0", f"{2**64 - 1}-0"], ids=["", "the largest that Redis takes"])
def test_what_only_seems_a_terminal_event_is_no_end(client, worker, dead, event_id):
    job = take_of(client, dead)
    client.xadd(KEYS.events(job.id), {"type": "finished", "data": "no JSON"}, id=event_id)
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == [job.id]
    assert not client.exists(KEYS.events(job.id))
    assert_nothing_is_left(client, worker, dead)


@pytest.mark.parametrize("key", ["rq:executions:{}", "rq:results:{}", "rq:job:{}:dependents"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_job_with_a_foreign_key_does_not_hold_up_the_others(client, worker, dead, key, ended):
    first, second = take_of(client, dead), enqueue(client)
    dead.take()
    client.set(key.format(first.id), "foreign")
    if ended:
        write_result(client, first.id)
    die(client, dead)
    bury(worker, dead)
    assert second.id in in_queue(client)
    assert (first.id in in_queue(client)) == (not ended)
    assert_nothing_is_left(client, worker, dead)


def test_a_retry_that_rq_has_not_heard_of_is_made_up_for(client, worker, dead):
    """The attempt timed out and left no terminal event: the job is as good as running."""
    job = take_of(client, dead, retry=Retry(2))
    dead.begin(job, DIGEST)
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == [job.id]
    assert Job.fetch(job.id, client, "json").retries_left == 2


@pytest.mark.parametrize("ended", [True, False])
def test_two_sweepers_at_once_move_or_settle_a_job_once(client, start, dead, ended):
    known = []
    for _ in range(10):
        job = take_of(client, dead)
        dead.begin(job, DIGEST)
        known.append(job.id)
    for job_id in known if ended else ():
        write_result(client, job_id)
    die(client, dead)
    sweepers = [start(name) for name in ("one", "other")]
    gate = threading.Barrier(len(sweepers))
    failures: list[BaseException] = []

    def sweep(worker: GenerationWorker) -> None:
        gate.wait(60)
        try:
            bury(worker, dead)
        except BaseException as error:  # noqa: BLE001 - shown to the test
            failures.append(error)

    threads = [threading.Thread(target=sweep, args=(sweeper,)) for sweeper in sweepers]
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
    slow_sweeper = Sweeper(slow)
    settling, may_settle = threading.Event(), threading.Event()
    succeed, ended = fast.succeed, slow_sweeper._result_or_discard

    def succeed_later(*args: object) -> None:
        settling.set()
        assert may_settle.wait(60)
        succeed(*args)

    def overtaken(job_id: str) -> GenerationResult | None:
        if not settling.is_set():
            thread.start()
            assert settling.wait(60)
        return ended(job_id)

    thread = threading.Thread(target=bury, args=(fast, dead))
    monkeypatch.setattr(fast, "succeed", succeed_later)
    monkeypatch.setattr(slow_sweeper, "_result_or_discard", overtaken)
    slow_sweeper.sweep(Dead(member_of(dead), "overdue"))
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
            bury(sweeper, dead)
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.QUEUED
    die(client, sweeper)
    bury(worker, sweeper)
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
            bury(other, slow)
            left["traces"] = {key: client.dump(key) for key in client.keys("*") if b"slow" not in key}
        return execute(pipeline, raise_on_error)

    monkeypatch.setattr(Pipeline, "execute", overtaken)
    bury(slow, dead)
    assert left["traces"] == {key: client.dump(key) for key in client.keys("*") if b"slow" not in key}
    assert len(Job.fetch(job.id, client, "json").results()) == 1
    assert_nothing_is_left(client, slow, other, dead)


def test_a_result_that_has_come_since_the_look_is_not_deleted(client, worker, dead, monkeypatch):
    """A sweeper that was stopped over what stood in place of a result: the job's own end stands there now."""
    job = take_of(client, dead)
    client.set(KEYS.result(job.id), "no JSON")
    step = sweeping.discard_result

    def overtaken(*args: object, **options: object) -> object:
        write_result(client, job.id)
        return step(*args, **options)

    monkeypatch.setattr(sweeping, "discard_result", overtaken)
    sweeper = Sweeper(worker)
    sweeper._result_or_discard(job.id)
    assert sweeper._result_or_discard(job.id).status == "finished"


def test_a_job_whose_retry_rq_has_noted_is_not_put_back_once_more(client, worker, dead):
    """Its worker died before it had put the job down: the retry and the putting down are one step."""
    job = take_of(client, dead, retry=Retry(2))
    dead.fail(job, dead.begin(job, DIGEST), JobTimeout())
    die(client, dead)
    bury(worker, dead)
    assert in_queue(client) == [job.id]
    assert not client.hexists(job.key, "deaths")


def test_a_sweep_when_nobody_has_died_writes_nothing(client, worker, start):
    busy = start("busy")
    enqueue(client)
    taken_job(busy)
    before = {key: client.dump(key) for key in client.keys("*")}
    bury(worker, busy)
    assert {key: client.dump(key) for key in client.keys("*")} == before


# -- waiting for too long


def test_jobs_that_have_waited_for_too_long_are_taken_to_be_ended(client, worker):
    late, unreadable, other = enqueue(client), enqueue(client), enqueue(client)
    client.hset(unreadable.key, "created_at", "yesterday")
    client.zadd(KEYS.deadlines("tiny"), {late.id: 1, unreadable.id: 2, other.id: 4e12, "cancelled-since": 3})
    taken = worker.take_late()
    assert [each if isinstance(each, str) else each.id for each in taken] == [late.id, unreadable.id]
    assert isinstance(taken[1], str)
    assert in_list(client, worker) == [late.id, unreadable.id]
    assert worker.in_hand == {late.id, unreadable.id}
    assert in_queue(client) == [other.id]
    assert worker.take_late() == []


@pytest.mark.parametrize("begun", [True, False], ids=["running", "popped and not yet started"])
def test_a_job_that_was_taken_in_time_does_not_expire_when_its_worker_dies(client, worker, dead, begun):
    """`queue_ttl_s` bounds the wait for a worker, and that was over: its user may have read half of the text."""
    enqueued = enqueue(client, meta={"expires_at": 1})
    client.hset(enqueued.key, "expires_at_ms", 1)
    job = taken_job(dead)
    if begun:
        dead.begin(job, DIGEST)
    die(client, dead)
    bury(worker, dead)
    client.zadd(KEYS.deadlines("tiny"), {job.id: 1})
    assert worker.take_late() == []
    taken = worker.take()
    assert read_order(worker.read(taken), taken, worker.settings, (NORMAL,)).job_id == job.id
