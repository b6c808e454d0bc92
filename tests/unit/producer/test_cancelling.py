"""Many jobs are cancelled, in chunks."""

import pytest
import redis
from fakeredis import FakeRedis

from producer import InvalidRequest, Producer, cancelling
from producer.broker.embedded import EmbeddedBroker
from tests.scripted_worker import ScriptedWorker


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "AT_ONCE", 2)


def test_each_of_many_has_its_outcome(producer: Producer, worker: ScriptedWorker) -> None:
    ended, running, begun, *waiting = producer.submit_many(list("abcdef"), model="tiny")
    worker.play("x", job_id=ended.job_id)
    worker.take(begun.job_id)
    worker.publish("x")
    worker.put_back()
    worker.take(running.job_id)
    ids = [job.job_id for job in (ended, running, begun, *waiting)]

    assert producer.cancel_many([*ids, "unknown", ids[0]]) == {
        ended.job_id: "ended",
        running.job_id: "requested",
        **{job.job_id: "cancelled" for job in (begun, *waiting)},
        "unknown": "no_such_job",
    }
    assert begun.result(check=False).text == "x"
    assert {job.result(check=False).status for job in waiting} == {"cancelled"}
    assert producer.cancel_many([]) == {}


@pytest.mark.parametrize("ttl", ["9" * 17, "9" * 400])
def test_a_ttl_that_redis_cannot_keep_keeps_no_job_in_its_queue(broker: EmbeddedBroker, ttl: str) -> None:
    """RQ takes any number for a result_ttl. The step failed behind the terminal event, which stood for ever."""
    with Producer(broker.url) as producer, redis.Redis(port=broker.port) as client:
        job = producer.submit("Hi", model="tiny")
        client.hset(f"rq:job:{job.job_id}", "result_ttl", ttl)

        assert job.cancel() == "cancelled"
        assert producer.overview("tiny").models[0].queued == 0
        assert client.ttl(f"gen:{{{job.job_id}}}:events") == pytest.approx(producer.settings.result_ttl_s, abs=60)


def test_what_is_no_id_is_refused_before_anything_is_done(producer: Producer) -> None:
    job = producer.submit("a", model="tiny")
    with pytest.raises(InvalidRequest, match="job id"):
        producer.cancel_many([job.job_id, "no id"])
    assert job.status().state == "queued"


def test_all_that_wait_are_cancelled_and_what_runs_goes_on(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis
) -> None:
    producer.submit_many(list("abc"), model="tiny")
    producer.submit_many(list("ab"), model="tiny", priority="low")
    producer.submit("a", model="small")
    worker.take()
    client.lpush("rq:queue:generate.tiny", "no id", "gone")  # which stay where they are

    assert producer.cancel_all("tiny", queued_only=True) == {"cancelled": 4, "no_such_job": 1}

    assert client.lrange("rq:queue:generate.tiny", 0, -1) == [b"gone", b"no id"]
    assert not client.exists(worker.keys.cancel(worker.job_id))
    assert producer.cancel_all(queued_only=True) == {"cancelled": 1, "no_such_job": 1}


def test_all_that_run_and_wait_for_their_time_too(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis
) -> None:
    running, later, waiting = producer.submit_many(list("abc"), model="tiny")
    worker.take(running.job_id)
    client.zadd("rq:wip:generate.tiny", {f"{running.job_id}:run": "inf"})
    client.lrem("rq:queue:generate.tiny", 1, later.job_id)
    client.zadd("rq:scheduled:generate.tiny", {later.job_id: 2e9})
    client.hset(f"rq:job:{later.job_id}", "status", "scheduled")

    assert producer.cancel_all() == {"cancelled": 2, "requested": 1}
    assert {job.status().state for job in (later, waiting)} == {"cancelled"}


def test_where_something_else_stands_in_a_jobs_place_the_others_are_cancelled(
    producer: Producer, client: FakeRedis
) -> None:
    bad, events, good = producer.submit_many(list("abc"), model="tiny")
    client.delete(f"rq:job:{bad.job_id}")
    client.rpush(f"rq:job:{bad.job_id}", "x")
    client.rpush(f"gen:{{{events.job_id}}}:events", "x")
    outcomes = producer.cancel_many([bad.job_id, events.job_id, good.job_id])
    assert outcomes == {bad.job_id: "no_such_job", events.job_id: "no_such_job", good.job_id: "cancelled"}
