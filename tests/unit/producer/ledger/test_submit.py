"""Jobs enter their queue, all of a batch or none; an id stands for one request."""

import pytest

from producer.contract import Keys
from producer.ledger.submit import Conflict, Full

from .steps import HIGH, KEYS, LOW, NORMAL, field, finish, items, redis_ms, running, state, submit_jobs


def test_a_job_stands_in_its_queue_and_in_rqs_records(client):
    before_ms = redis_ms(client)
    assert submit_jobs(client, "a", "b", queue_ttl_s=90.5) == [True, True]
    after_ms = redis_ms(client)
    assert items(client, NORMAL) == ["a", "b"]
    assert client.smembers("rq:queues") == {NORMAL.encode()}
    assert 490 < client.ttl("rq:job:a") <= 500
    assert field(client, "a", "request_digest") == "digest"
    assert before_ms - 1 <= int(field(client, "a", "queued_at_ms")) <= after_ms


def test_a_deadline_is_on_redis_clock(client):
    submit_jobs(client, "a", queue_ttl_s=90.5)
    expires_at_ms = int(field(client, "a", "expires_at_ms"))
    assert expires_at_ms - int(field(client, "a", "queued_at_ms")) == 90_500
    assert client.zscore(KEYS.deadlines("tiny"), "a") == expires_at_ms


def test_the_deadlines_are_kept_for_as_long_as_the_longest_wait(client):
    submit_jobs(client, "patient", queue_ttl_s=10**7)
    submit_jobs(client, "hasty", queue_ttl_s=1)
    assert client.ttl(KEYS.deadlines("tiny")) > 10**7
    submit_jobs(client, "more patient", queue_ttl_s=2 * 10**7)
    assert 2 * 10**7 < client.ttl(KEYS.deadlines("tiny")) <= 2 * 10**7 + 86_400


@pytest.mark.parametrize(("priority", "queue"), [("high", HIGH), ("normal", NORMAL), ("low", LOW)])
def test_the_priority_chooses_the_queue(client, priority, queue):
    submit_jobs(client, "a", priority=priority)
    assert items(client, queue) == ["a"]


def test_a_batch_above_the_cap_is_refused_whole(client):
    submit_jobs(client, "first", priority="low")
    submit_jobs(client, "second", priority="high")
    before = state(client)
    assert submit_jobs(client, "third", max_queued=2) == Full(2)
    assert submit_jobs(client, "third", "fourth", max_queued=3) == Full(2)
    assert state(client) == before
    assert submit_jobs(client, "first", max_queued=1) == [False], "nothing is added by it"
    assert submit_jobs(client, "third", max_queued=3) == [True]


@pytest.mark.parametrize("priority", ["high", "low"])
def test_the_same_request_is_the_same_job(client, priority):
    submit_jobs(client, "a")
    before = state(client)
    assert submit_jobs(client, "a", priority=priority) == [False]
    assert {key: dump for key, dump in state(client).items() if key != b"rq:queues"} == {
        key: dump for key, dump in before.items() if key != b"rq:queues"
    }


@pytest.mark.parametrize(
    "other",
    [{"digest": "another"}, {"model": "other"}, {"keys": Keys("mine")}, {"model": "tiny.h"}],
    ids=["request", "model", "prefix", "a model whose name begins alike"],
)
def test_an_id_of_another_job_is_a_conflict_and_nothing_is_enqueued(client, other):
    submit_jobs(client, "a")
    before = state(client)
    assert submit_jobs(client, "new", "a", **other) == Conflict("a")
    assert state(client) == before


def test_models_whose_names_begin_alike_are_not_the_same(client):
    submit_jobs(client, "a", model="tiny.h")
    assert submit_jobs(client, "a", model="tiny") == Conflict("a")
    submit_jobs(client, "b", model="tiny", priority="high")
    assert submit_jobs(client, "b", model="tiny") == [False]


def test_a_job_of_plain_rq_has_no_digest_and_is_the_same(client):
    client.hset("rq:job:a", mapping={"origin": KEYS.queue("tiny"), "status": "queued"})
    assert submit_jobs(client, "a") == [False]


@pytest.mark.parametrize("left", ["events", "result"])
def test_an_id_is_taken_while_its_end_is_kept(client, left):
    finish(client, running(client, "a"))
    client.delete("rq:job:a", KEYS.result("a") if left == "events" else KEYS.events("a"))
    assert submit_jobs(client, "a") == [False]
    assert not client.exists("rq:job:a")


@pytest.mark.parametrize("priority", ["high", "normal"])
def test_of_an_earlier_life_of_the_id_nothing_reaches_the_next(client, priority):
    for key in (KEYS.cancel("a"), "rq:results:a", KEYS.waiters("a")):
        client.set(key, "of the life before")
    registries = [f"rq:{state}:{KEYS.queue('tiny', priority)}" for state in ("finished", "failed", "canceled")]
    for registry in registries:
        client.zadd(registry, {"a": 1, "another": 1})
    assert submit_jobs(client, "a", priority=priority) == [True]
    assert not client.exists(KEYS.cancel("a"), "rq:results:a", KEYS.waiters("a"))
    assert [client.zrange(registry, 0, -1) for registry in registries] == [[b"another"]] * 3
