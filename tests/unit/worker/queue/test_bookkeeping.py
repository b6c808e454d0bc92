"""What RQ reads of a job once its start or its end was registered, and of one that was not ours to register."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta

import pytest
import redis
from redis.client import Pipeline
from rq import Retry
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.utils import now

from producer.contract import (
    GenerationResult,
    InvalidRequest,
    JobExpired,
    JobTimeout,
    Timings,
    Usage,
    WorkerLost,
)
from producer.ledger.delete import delete
from producer.ledger.step import Step
from worker.errors import BookkeepingFailed
from worker.intake import MIN_RESULT_TTL_S, read_order
from worker.queue import bookkeeping, running
from worker.queue.bookkeeping import note_end
from worker.queue.rq_worker import GenerationWorker

from ..jobs import (
    DIGEST,
    KEYS,
    NORMAL,
    beat,
    bury,
    die,
    enqueue,
    in_list,
    in_queue,
    registered,
    result,
    taken_job,
    taken_job_of,
)
from ..server import Server

# -- starts


def test_begin_shows_the_job_as_running_here(client, worker, job):
    execution = worker.begin(job, DIGEST)
    seen = Job.fetch(job.id, client, "json")
    assert (seen.get_status(), seen.worker_name) == (JobStatus.STARTED, worker.name)
    assert registered(StartedJobRegistry, client) == [job.id]
    assert [each.id for each in seen.get_executions()] == [execution.id]
    assert worker.get_current_job_id() == job.id
    assert 900 < client.ttl(execution.key) <= worker.settings.keep_held_s
    assert client.zscore(f"rq:wip:{NORMAL}", execution.composite_key) == float("inf")
    assert client.ttl(job.key) == -1


def test_begin_again_after_a_lost_answer_leaves_one_execution(client, worker, job, monkeypatch):
    def lose_answer(step, server, *, run=Step.run):
        run(step, server)
        raise redis.ConnectionError("Connection closed by server.")

    def not_heard(*_, **__):
        raise redis.ConnectionError("Connection refused.")

    for owner, name, call in ((Step, "run", lose_answer), (Pipeline, "execute", not_heard)):
        with monkeypatch.context() as cut:
            cut.setattr(owner, name, call)
            with pytest.raises(redis.ConnectionError):
                worker.begin(job, DIGEST)
    execution = worker.begin(job, DIGEST)
    assert [each.id for each in Job.fetch(job.id, client, "json").get_executions()] == [execution.id]
    assert client.zrange(f"rq:wip:{NORMAL}", 0, -1) == [execution.composite_key.encode()]
    assert client.smembers(worker.executions_key) == {execution.composite_key.encode()}
    assert client.keys("rq:execution:*") == [execution.key.encode()]
    assert list(worker.executions) == [execution.id]


def test_an_end_that_is_registered_meanwhile_is_no_fault(worker):
    """By another thread: a job begins, and the worker beats, beside the end of the one before."""

    class Ending:
        @property
        def job_id(self) -> str:
            worker.executions.clear()
            return "ended"

    class Ended(dict):
        def __len__(self) -> int:
            length = super().__len__()
            self.clear()
            return length

    worker.executions = {"one": Ending(), "other": Ending()}
    assert worker._executions_of("begun") == []
    worker.executions = Ended(one=Ending())
    assert worker.get_current_job_id() in (None, "ended")


def test_a_job_that_cannot_be_begun_and_is_given_up_is_shown_as_running_nowhere(client, worker, job):
    client.delete(worker.key)
    client.set(worker.key, "what is no record")
    with pytest.raises(redis.ResponseError):
        worker.begin(job, DIGEST)
    worker.forget_runs(job.id)
    assert client.zrange(f"rq:wip:{NORMAL}", 0, -1) == client.keys("rq:execution:*") == []
    assert worker.executions == {}


def test_begin_writes_nothing_for_a_job_that_a_sweep_has_moved_on(client, worker, job):
    client.delete(KEYS.taken(worker.name))
    execution = worker.begin(job, DIGEST)
    assert registered(StartedJobRegistry, client) == []
    assert not client.exists(execution.key)
    assert client.hget(job.key, "status") == b"queued"


# -- ends


def assert_nothing_runs(client: Server, worker: GenerationWorker, job: Job, execution: Execution | None) -> None:
    assert registered(StartedJobRegistry, client) == []
    assert Job.fetch(job.id, client, "json").get_executions() == []
    assert worker.get_current_job_id() is None
    assert execution is None or not client.exists(execution.key)


def test_success(client, worker, job):
    execution = worker.begin(job, DIGEST)
    worker.succeed(job, execution, result(job, timings=Timings(queued_ms=1.5)))
    seen = Job.fetch(job.id, client, "json")
    assert seen.get_status() == JobStatus.FINISHED
    assert GenerationResult.model_validate(seen.return_value()).text == "ab"
    assert registered(FinishedJobRegistry, client) == [job.id]
    assert_nothing_runs(client, worker, job, execution)
    assert 0 < client.ttl(job.key) <= 3600
    assert worker.serialize()["ended_jobs"] == job.id


KEPT = [(70, 70), (5, MIN_RESULT_TTL_S), (None, 1000), (-1, 1000), (10**9, 1000)]
"""As long as events and result: while those are there, the hash tells whose they are."""


@pytest.mark.parametrize(("asked", "kept"), KEPT)
def test_a_result_is_kept_as_asked_within_bounds(client, start, asked, kept):
    worker = start(result_ttl_s=1000)
    job = taken_job_of(client, worker, result_ttl=asked)
    worker.succeed(job, worker.begin(job, DIGEST), result(job))
    assert kept - 5 < client.ttl(job.key) <= kept


@pytest.mark.parametrize(("asked", "kept"), KEPT)
def test_a_failure_is_kept_as_asked_within_bounds(client, start, asked, kept):
    worker = start(result_ttl_s=1000)
    job = taken_job_of(client, worker, failure_ttl=asked)
    worker.fail(job, worker.begin(job, DIGEST), JobTimeout("too slow"))
    assert kept - 5 < client.ttl(job.key) <= kept


@pytest.mark.parametrize("ends", ["succeed", "fail"])
def test_a_job_that_is_to_be_forgotten_at_once_is(client, worker, ends):
    job = taken_job_of(client, worker, result_ttl=0, failure_ttl=0)
    execution = worker.begin(job, DIGEST)
    worker.succeed(job, execution, result(job)) if ends == "succeed" else worker.fail(job, execution, JobTimeout())
    assert not client.exists(job.key)


def test_failure(client, worker, job):
    execution = worker.begin(job, DIGEST)
    worker.fail(job, execution, JobTimeout("too slow"))
    seen = Job.fetch(job.id, client, "json")
    assert seen.get_status() == JobStatus.FAILED
    assert seen.latest_result().exc_string == "timeout: too slow"
    assert registered(FailedJobRegistry, client) == [job.id]
    assert_nothing_runs(client, worker, job, execution)


def test_a_job_that_rqs_upkeep_gave_up_and_that_finishes_leaves_the_registry_of_failures(client, worker, job):
    """That of an earlier version, say, in which a running job stood with a time."""
    execution = worker.begin(job, DIGEST)
    client.hset(job.key, "status", "failed")
    client.zadd(f"rq:failed:{NORMAL}", {job.id: 2e9})
    worker.succeed(job, execution, result(job))
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.FINISHED
    assert registered(FailedJobRegistry, client) == []
    assert registered(FinishedJobRegistry, client) == [job.id]


def test_refusal_of_a_job_that_never_ran(client, worker):
    job = taken_job_of(client, worker, retry=Retry(3))
    worker.refuse(job, InvalidRequest("no prompt"))
    seen = Job.fetch(job.id, client, "json")
    assert seen.get_status() == JobStatus.FAILED
    assert seen.latest_result().exc_string == "invalid_request: no prompt"
    assert registered(FailedJobRegistry, client) == [job.id]
    assert in_queue(client) == []


def test_a_refused_job_that_is_enqueued_again_begins_anew(client, worker):
    job = taken_job_of(client, worker)
    client.hset(job.key, "deaths", 3)
    worker.refuse(job, WorkerLost())
    assert not client.hexists(job.key, "deaths")
    assert in_list(client, worker) == []


def test_a_refusal_is_registered_once_also_for_a_job_that_waits_in_its_queue(client, worker, start):
    """As an expired one does: every worker looks for those."""
    job = enqueue(client)
    for each in (worker, start("other"), worker):
        each.refuse(each.fetch(job.id), JobExpired())
    assert len(Job.fetch(job.id, client, "json").results()) == 1


def test_stopped(client, worker, job):
    execution = worker.begin(job, DIGEST)
    worker.stopped(job, execution)
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.STOPPED
    assert_nothing_runs(client, worker, job, execution)


def test_the_job_after_a_stopped_one_fails_as_itself(client, worker, job):
    """RQ keeps the id of the job that a command has asked it to stop."""
    worker._stopped_job_id = job.id
    worker.fail(job, worker.begin(job, DIGEST), JobTimeout())
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.FAILED


def test_a_failure_that_may_pass_is_retried_and_one_that_will_not_is_not(client, worker):
    job = taken_job_of(client, worker, retry=Retry(2))
    worker.fail(job, worker.begin(job, DIGEST), JobTimeout())
    worker.put_down(job.id)
    assert in_queue(client) == [job.id]
    assert Job.fetch(job.id, client, "json").retries_left == 1
    job = taken_job(worker)
    worker.fail(job, worker.begin(job, DIGEST), InvalidRequest("no"))
    assert in_queue(client) == []
    assert Job.fetch(job.id, client, "json").get_status() == JobStatus.FAILED


@pytest.mark.parametrize("skew_s", [-900, 900])
def test_another_try_waits_for_its_interval_whatever_this_hosts_clock_says(client, worker, monkeypatch, skew_s):
    job = taken_job_of(client, worker, retry=Retry(1, interval=600))
    for module in (bookkeeping, running):
        monkeypatch.setattr(module, "now", lambda: now() + timedelta(seconds=skew_s))
    failed_at_s = client.time()[0]
    worker.fail(job, worker.begin(job, DIGEST), JobTimeout())
    due_at_s = client.zscore(f"rq:scheduled:{NORMAL}", job.id)
    assert failed_at_s + 599 <= due_at_s <= client.time()[0] + 600


# -- jobs that go on elsewhere


def test_put_back_goes_to_the_front(client, worker, job):
    later = enqueue(client)
    execution = worker.begin(job, DIGEST)
    worker.put_back(job, execution)
    assert in_queue(client) == [job.id, later.id]
    assert in_list(client, worker) == []
    assert client.hget(job.key, "status") == b"queued"
    assert_nothing_runs(client, worker, job, execution)


def test_a_job_over_which_the_engine_died_goes_back_with_one_death_more(client, worker, job):
    client.hset(job.key, "deaths", 1)
    worker.put_back_after_death(job, worker.begin(job, DIGEST))
    assert in_queue(client) == [job.id]
    assert client.hget(job.key, "deaths") == b"2"


def test_a_death_is_counted_once_though_its_answer_was_lost(client, worker, job):
    execution = worker.begin(job, DIGEST)
    worker.put_back_after_death(job, execution)
    worker.put_back_after_death(job, execution)
    assert in_queue(client) == [job.id]
    assert client.hget(job.key, "deaths") == b"1"


def test_deaths_that_are_no_number_do_not_keep_a_job_from_its_queue(client, worker, job):
    client.hset(job.key, "deaths", "many")
    worker.put_back_after_death(job, worker.begin(job, DIGEST))
    assert in_queue(client) == [job.id]
    assert client.hget(job.key, "deaths") == b"1"


@pytest.mark.parametrize("foreign", [True, False])
def test_put_back_of_a_job_without_a_hash_leaves_it_to_whoever_refuses_it(client, worker, job, foreign):
    execution = worker.begin(job, DIGEST)
    client.delete(job.key)
    if foreign:
        client.set(job.key, "foreign")
    worker.put_back(job, execution)
    assert in_queue(client) == [job.id]
    assert client.get(job.key) == (b"foreign" if foreign else None)


def test_put_back_of_a_job_that_a_sweep_has_put_back_already_does_not_double_it(client, worker, job):
    execution = worker.begin(job, DIGEST)
    client.lrem(KEYS.taken(worker.name), 1, job.id)
    client.lpush(f"rq:queue:{NORMAL}", job.id)
    worker.put_back(job, execution)
    assert in_queue(client) == [job.id]


def test_forget_leaves_the_other_workers_record_alone(client, worker, start, job):
    ours = worker.begin(job, DIGEST)
    heir = start()
    client.rename(KEYS.taken(worker.name), KEYS.taken(heir.name))
    theirs = heir.begin(job, DIGEST)
    worker.forget(ours)
    assert worker.get_current_job_id() is None
    assert not client.exists(ours.key)
    assert client.exists(theirs.key)
    assert Job.fetch(job.id, client, "json").worker_name == heir.name


def test_a_job_is_lost_once_a_sweep_has_moved_it_and_not_when_redis_has_lost_everything(client, worker, job):
    worker.begin(job, DIGEST)
    assert not worker.has_lost(job.id)
    client.lrem(KEYS.taken(worker.name), 1, job.id)
    client.hset(job.key, mapping={"status": "queued", "worker_name": ""})
    assert worker.has_lost(job.id)
    client.flushall()
    assert not worker.has_lost(job.id)
    client.set(job.key, "foreign")
    assert worker.has_lost(job.id)


def test_a_job_that_was_deleted_is_lost_and_no_end_brings_it_back(client, worker, job):
    """We were stopped and taken for dead; it was deleted meanwhile, and then we had its end registered."""
    execution = worker.begin(job, DIGEST)
    client.delete(KEYS.taken(worker.name))
    client.hset(job.key, mapping={"status": "queued", "worker_name": "", "swept_from": worker.name})
    assert delete(KEYS, job.id, ["tiny"]).run(client) is True
    assert worker.has_lost(job.id)
    worker.succeed(job, execution, result(job))
    assert [key for key in client.keys("*") if job.id.encode() in key] == [KEYS.deleted(job.id).encode()]


# -- beside the registering of an end


@pytest.fixture
def amid(monkeypatch):
    """Has something happen before each transaction of the bookkeeping, and counts those that Redis refused."""
    conflicts: list[Pipeline] = []

    def amid(happen: Callable[[], None]) -> list[Pipeline]:
        execute, busy = Pipeline.execute, []

        def crowded(pipeline: Pipeline, raise_on_error: bool = True):
            if not busy and pipeline.command_stack:
                busy.append(True)
                happen()
                busy.clear()
            try:
                return execute(pipeline, raise_on_error)
            except redis.WatchError:
                conflicts.append(pipeline)
                raise

        monkeypatch.setattr(Pipeline, "execute", crowded)
        return conflicts

    return amid


@pytest.mark.parametrize("end", ["success", "failure", "stopped"])
def test_the_workers_own_beat_breaks_no_transaction(client, worker, job, amid, end):
    execution = worker.begin(job, DIGEST)
    conflicts = amid(lambda: beat(worker))
    ENDS[end](worker, job, execution)
    assert conflicts == []
    assert len(Job.fetch(job.id, client, "json").results()) == 1


@pytest.mark.parametrize("end", ["success", "failure", "stopped"])
def test_progress_breaks_no_transaction_that_registers_an_end(client, worker, job, amid, end):
    """It is written on another task, at any time."""
    execution = worker.begin(job, DIGEST)
    conflicts = amid(lambda: worker.save_progress(job, {"phase": "decode", "tokens": 1}))
    ENDS[end](worker, job, execution)
    assert conflicts == []
    assert "phase" not in Job.fetch(job.id, client, "json").meta


@pytest.mark.parametrize("end", ["success", "failure", "stopped"])
def test_the_meta_of_a_job_that_has_ended_says_how(client, worker, end):
    job = taken_job_of(client, worker, meta={"mine": 1})
    execution = worker.begin(job, DIGEST)
    worker.save_progress(job, {"phase": "decode", "tokens": 1, "tokens_per_second": None})
    note_end(job, result(job, usage=Usage(prompt_tokens=1, completion_tokens=2)))
    ENDS[end](worker, job, execution)
    meta = {"mine": 1, "phase": "finished", "tokens": 2, "tokens_per_second": None}
    assert Job.fetch(job.id, client, "json").meta == meta
    worker.save_progress(job, {"phase": "decode", "tokens": 1})
    worker.put_down(job.id)
    worker.save_progress(job, {"phase": "decode", "tokens": 1})
    assert Job.fetch(job.id, client, "json").meta == meta


# -- a worker that was taken for dead, and lives


def test_a_worker_that_comes_back_takes_its_death_back_and_no_other(client, worker, start):
    job = taken_job_of(client, worker)
    client.hset(job.key, "deaths", 1)
    execution = worker.begin(job, DIGEST)
    die(client, worker)
    bury(start("other"), worker)
    assert client.hget(job.key, "deaths") == b"2"
    worker.forget(execution)
    worker.forget(execution)
    assert client.hget(job.key, "deaths") == b"1"


# -- trouble


def test_a_failure_that_redis_did_not_take_is_said_and_can_be_said_again(client, worker, fake_server):
    """RQ logs the error and goes on, as if the failure stood in Redis."""
    job = taken_job_of(client, worker, retry=Retry(1))
    execution = worker.begin(job, DIGEST)
    fake_server.connected = False
    with pytest.raises(redis.ConnectionError):
        worker.fail(job, execution, JobTimeout())
    fake_server.connected = True
    worker.fail(job, execution, JobTimeout())
    assert in_queue(client) == [job.id]
    assert Job.fetch(job.id, client, "json").retries_left == 0
    assert_nothing_runs(client, worker, job, execution)


@pytest.mark.parametrize("interval", [0, 60])
def test_a_retry_that_redis_did_not_take_at_first_is_one_retry(client, worker, monkeypatch, interval):
    """RQ counts it before its transaction, and logs that this has failed."""
    job = taken_job_of(client, worker, retry=Retry(2, interval=interval))
    execution = worker.begin(job, DIGEST)
    execute, refused = Pipeline._execute_transaction, []

    def refuse(*args):
        if not refused:
            refused.append(True)
            raise redis.ConnectionError("Connection closed by server.")
        return execute(*args)

    monkeypatch.setattr(Pipeline, "_execute_transaction", refuse)
    worker.fail(job, execution, JobTimeout())
    assert refused
    assert Job.fetch(job.id, client, "json").retries_left == 1
    assert in_queue(client) + registered(ScheduledJobRegistry, client) == [job.id]


@pytest.mark.parametrize("key", ["rq:results:{}", "rq:executions:{}"])
def test_a_failure_is_noted_but_for_a_key_of_somebody_elses_making(client, worker, job, key):
    """Redis runs the other commands of a transaction all the same."""
    execution = worker.begin(job, DIGEST)
    client.set(key.format(job.id), "foreign")
    worker.fail(job, execution, JobTimeout())
    assert client.hget(job.key, "status") == b"failed"
    assert client.ttl(job.key) > 0
    assert registered(FailedJobRegistry, client) == [job.id]
    assert worker.get_current_job_id() is None


def test_a_failure_that_redis_never_takes_is_given_up(client, worker, job, monkeypatch):
    """As with an ACL that forbids one of RQ's commands: Redis then refuses the whole transaction."""
    execution = worker.begin(job, DIGEST)
    execute = Pipeline._execute_transaction

    def forbidden(pipeline, connection, commands, raise_on_error):
        if any(args[0] == "XADD" for args, _ in commands):
            raise redis.exceptions.NoPermissionError("no permissions to run the 'xadd' command")
        return execute(pipeline, connection, commands, raise_on_error)

    monkeypatch.setattr(Pipeline, "_execute_transaction", forbidden)
    with pytest.raises(BookkeepingFailed):
        worker.fail(job, execution, JobTimeout())
    worker.let_expire(job)
    assert client.hget(job.key, "status") == b"failed"
    assert client.ttl(job.key) > 0
    assert worker.get_current_job_id() is None


def test_a_job_whose_start_rq_cannot_note_runs(client, worker, job):
    client.set(f"rq:executions:{job.id}", "foreign")
    assert worker.begin(job, DIGEST).job_id == job.id
    assert client.hget(job.key, "status") == b"started"


def test_an_unreadable_job_is_marked_as_failed_and_expires(client, worker):
    client.hset("rq:job:job-1", "hello", "world")
    worker.fail_unreadable("job-1")
    assert client.hget("rq:job:job-1", "status") == b"failed"
    assert 0 < client.ttl("rq:job:job-1") <= 3600


@pytest.mark.parametrize("foreign", [True, False])
def test_what_is_no_hash_is_not_marked(client, worker, foreign):
    if foreign:
        client.set("rq:job:job-1", "foreign")
    worker.fail_unreadable("job-1")
    assert client.get("rq:job:job-1") == (b"foreign" if foreign else None)


# -- callbacks


called: list[tuple] = []


def note(job: Job, _connection: object, *args: object) -> None:
    """A callback, as a user may list it in allowed_callbacks."""
    called.append((job.id, *args))


def fails(*_: object) -> None:
    """A callback that does not work."""
    raise RuntimeError


@pytest.mark.parametrize("name", [f"{__name__}.fails", "no.such.module"])
@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_a_callback_that_fails_changes_nothing(client, worker, job, name, kind):
    setattr(job, f"_{kind}_callback_name", name)
    _end(worker, job, kind)
    expected = {"success": JobStatus.FINISHED, "failure": JobStatus.FAILED, "stopped": JobStatus.STOPPED}
    assert Job.fetch(job.id, client, "json").get_status() == expected[kind]


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_a_callback_that_is_allowed_is_called_once(worker, job, kind):
    called.clear()
    setattr(job, f"_{kind}_callback", note)
    setattr(job, f"_{kind}_callback_name", "note")
    _end(worker, job, kind)
    [(job_id, *args)] = called
    assert job_id == job.id
    assert len(args) == {"success": 1, "failure": 3, "stopped": 0}[kind]


def _end(worker: GenerationWorker, job: Job, kind: str) -> None:
    ENDS[kind](worker, job, worker.begin(job, DIGEST))


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_a_callback_is_called_once_though_redis_has_to_be_told_twice(client, worker, job, fake_server, kind):
    called.clear()
    setattr(job, f"_{kind}_callback", note)
    setattr(job, f"_{kind}_callback_name", "note")
    execution = worker.begin(job, DIGEST)
    fake_server.connected = False
    with pytest.raises(redis.ConnectionError):
        ENDS[kind](worker, job, execution)
    fake_server.connected = True
    ENDS[kind](worker, job, execution)
    assert len(called) == 1
    assert client.hget(job.key, "status") in (b"finished", b"failed", b"stopped")


def test_a_callback_is_called_for_each_failure(client, worker):
    called.clear()
    job_id = enqueue(client, retry=Retry(1)).id
    for _ in range(2):
        job = taken_job(worker)
        job._failure_callback, job._failure_callback_name = note, "note"
        worker.fail(job, worker.begin(job, DIGEST), JobTimeout())
    assert [called_for for called_for, *_ in called] == [job_id, job_id]


# -- taken over between the look and the write


ENDS: dict[str, Callable[[GenerationWorker, Job, Execution], None]] = {
    "success": lambda worker, job, execution: worker.succeed(job, execution, result(job)),
    "failure": lambda worker, job, execution: worker.fail(job, execution, JobTimeout()),
    "stopped": lambda worker, job, execution: worker.stopped(job, execution),
    "let expire": lambda worker, job, execution: worker.let_expire(job),
    "put back": lambda worker, job, execution: worker.put_back(job, execution),
    "put back after a death": lambda worker, job, execution: worker.put_back_after_death(job, execution),
}
WRITES = {"HSET", "ZADD", "XADD", "EVAL"}


@pytest.fixture
def last_moment(monkeypatch):
    """Has something happen after all looks, right before the next transaction that would leave a trace."""

    def last_moment(happen: Callable[[], None]) -> None:
        pending, execute = [happen], Pipeline.execute

        def overtaken(pipeline: Pipeline, raise_on_error: bool = True):
            if pending and WRITES & {args[0] for args, _ in pipeline.command_stack}:
                pending.pop()()
            return execute(pipeline, raise_on_error)

        monkeypatch.setattr(Pipeline, "execute", overtaken)

    return last_moment


class Heir:
    """A worker that takes the job over, and remembers what stood in Redis then."""

    def __init__(self, client: Server, dead: GenerationWorker, heir: GenerationWorker, *, finishes: bool) -> None:
        self.client, self._dead, self._heir, self._finishes = client, dead, heir, finishes
        self.left: dict[bytes, object] = {}

    def take_over(self) -> None:
        """The other was silent for so long that it counts as dead."""
        die(self.client, self._dead)
        bury(self._heir, self._dead)
        job = taken_job(self._heir)
        execution = self._heir.begin(job, DIGEST)
        if self._finishes:
            self._heir.succeed(job, execution, result(job))
        self.left = self.traces()

    def traces(self) -> dict[bytes, object]:
        """All that stands in Redis, but for the dead worker's own record and list, and its death.

        It lives: no death is counted.
        """
        own = self._dead.name.encode()
        left = {key: self.client.dump(key) for key in self.client.keys("*") if own not in key}
        for key in self.client.keys("rq:job:*"):
            fields = self.client.hgetall(key)
            left[key] = {name: value for name, value in fields.items() if name not in (b"deaths", b"lost_by")}
        return left

    def deaths(self, job: Job) -> int:
        return int(self.client.hget(job.key, "deaths") or 0)


@pytest.fixture(params=[False, True], ids=["runs", "has finished"])
def heir(request, client, worker, start) -> Heir:
    return Heir(client, worker, start(name="heir"), finishes=request.param)


@pytest.mark.parametrize("retry", [None, Retry(2), Retry(2, interval=60)], ids=["", "retry", "scheduled retry"])
@pytest.mark.parametrize("end", ENDS)
def test_an_end_is_not_registered_for_a_job_that_was_taken_over_at_the_last_moment(
    worker, heir, last_moment, end, retry
):
    """A stall of more than one time to live, exactly between our look at the job and RQ's write."""
    job = taken_job_of(heir.client, worker, retry=retry)
    execution = worker.begin(job, DIGEST)
    last_moment(heir.take_over)
    ENDS[end](worker, job, execution)
    assert heir.left
    assert heir.traces() == heir.left
    assert worker.executions == {}
    assert heir.deaths(job) == 0 or end == "let expire"


def test_a_start_is_not_registered_for_a_job_that_was_taken_over_before(worker, heir, job):
    heir.take_over()
    assert heir.left
    worker.begin(job, DIGEST)
    assert heir.traces() == heir.left
    assert worker.executions == {}


def test_a_change_that_is_no_takeover_does_not_keep_an_end_from_being_registered(client, worker, job, last_moment):
    """As the heartbeat does, and the taking of the next job."""
    execution = worker.begin(job, DIGEST)
    last_moment(lambda: client.expire(KEYS.taken(worker.name), 500))
    worker.fail(job, execution, JobTimeout())
    assert client.hget(job.key, "status") == b"failed"
    assert len(Job.fetch(job.id, client, "json").results()) == 1


@pytest.mark.parametrize("retry", [None, Retry(2)], ids=["", "retry"])
@pytest.mark.parametrize("end", ["success", "failure", "stopped"])
def test_deaths_before_an_end_do_not_count_for_a_job_that_is_run_again(client, worker, end, retry):
    job = taken_job_of(client, worker, retry=retry)
    client.hset(job.key, "deaths", 2)
    ENDS[end](worker, job, worker.begin(job, DIGEST))
    assert client.exists(job.key)
    assert not client.hexists(job.key, "deaths")


@pytest.mark.parametrize("retry", [None, Retry(2), Retry(2, interval=60)], ids=["", "retry", "scheduled retry"])
@pytest.mark.parametrize("end", ["success", "failure", "stopped"])
def test_an_end_whose_answer_was_lost_is_registered_once(client, worker, monkeypatch, end, retry):
    job = taken_job_of(client, worker, retry=retry)
    execution = worker.begin(job, DIGEST)
    execute, lost = Pipeline._execute_transaction, []

    def lose_answer(*args):
        answer = execute(*args)
        if not lost:
            lost.append(True)
            raise redis.ConnectionError("Connection closed by server.")
        return answer

    monkeypatch.setattr(Pipeline, "_execute_transaction", lose_answer)
    with pytest.raises(redis.ConnectionError) if end == "success" else nullcontext():  # RQ logs that of a failure
        ENDS[end](worker, job, execution)
    ENDS[end](worker, job, execution)
    assert lost
    seen = Job.fetch(job.id, client, "json")
    retried = retry is not None and end == "failure"
    assert len(seen.results()) == (0 if retried else 1)
    assert seen.retries_left == (1 if retried else retry and 2)
    waiting = in_queue(client) + registered(ScheduledJobRegistry, client)
    assert waiting == ([job.id] if retried else [])
    assert in_list(client, worker) == []


def test_a_job_that_depends_on_another_is_enqueued_with_the_end_of_that(client, worker):
    first = enqueue(client)
    second = enqueue(client, depends_on=first)
    job = taken_job(worker)
    assert (job.id, in_queue(client)) == (first.id, [])
    worker.succeed(job, worker.begin(job, DIGEST), result(job))
    assert in_queue(client) == [second.id]
    assert taken_job(worker).id == second.id


@pytest.mark.parametrize("end", ["failed", "stopped", "refused"])
def test_a_job_that_is_enqueued_again_after_its_end_waits_anew(client, worker, job, end):
    """Its wait of before was longer ago than it may wait: it ended as expired as soon as it was taken."""
    client.hset(job.key, mapping={"queued_at_ms": 1, "expires_at_ms": 2, "meta": '{"expires_at": 1}'})
    job.refresh()
    if end == "refused":
        worker.refuse(job, InvalidRequest("no"))
    else:
        execution = worker.begin(job, DIGEST)
        worker.stopped(job, execution) if end == "stopped" else worker.fail(job, execution, JobTimeout())
    worker.put_down(job.id)
    Job.fetch(job.id, client, "json").requeue()
    taken = worker.take()
    order = read_order(worker.read(taken), taken, worker.settings, tuple(worker.queue_names()))
    assert order.queued_ms < 600_000
