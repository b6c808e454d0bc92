"""A job is ended early: one look and one write."""

import pytest

from producer.ledger.cancel import request_stop
from producer.ledger.stream import clear
from producer.ledger.take import put_back

from .steps import (
    KEYS,
    NORMAL,
    NOW,
    append,
    cancel_job,
    entry,
    events,
    field,
    finish,
    ids,
    items,
    redis_ms,
    running,
    state,
    submit_jobs,
    taken,
)

QUEUE = KEYS.queue("tiny")
STARTED = '{"attempt":1,"worker":"w1","model":"tiny","prompt_tokens":3,"seed":7}'


def test_a_job_that_waits_is_ended_at_once(client):
    submit_jobs(client, "a", "b")
    client.set(KEYS.cancel("a"), "1")
    client.sadd(KEYS.waiters("a"), KEYS.wake("1"))
    assert cancel_job(client, "a") == "cancelled"
    [last] = events(client, "a")
    assert (str(last.id), last.event.type) == ("1-0", "cancelled")
    assert client.get(KEYS.result("a")) == last.event.data.model_dump_json().encode()
    assert items(client, NORMAL) == ["b"]
    assert (field(client, "a", "status"), field(client, "a", "ended_at")) == ("canceled", NOW)
    assert field(client, "a", "expires_at_ms") == "", "put into its queue again, it waits anew"
    assert client.zrange(KEYS.deadlines("tiny"), 0, -1) == [b"b"]
    assert client.xlen(KEYS.wake("1")) == 1
    assert not client.exists(KEYS.cancel("a"), KEYS.waiters("a"))
    for key in (KEYS.events("a"), KEYS.result("a"), "rq:job:a"):
        assert 45 < client.ttl(key) <= 50


def test_no_entry_of_it_stays_in_its_queue(client):
    """RQ lets a job stand in its queue twice."""
    submit_jobs(client, "a", "b")
    client.rpush(NORMAL, "a")
    assert cancel_job(client, "a") == "cancelled"
    assert items(client, NORMAL) == ["b"]


def test_it_stands_in_rqs_registry_until_its_record_is_gone(client):
    submit_jobs(client, "a")
    cancel_job(client, "a")
    until_s = client.zscore(f"rq:canceled:{QUEUE}", "a")
    assert 45 < until_s - redis_ms(client) / 1000 <= 50


def test_rqs_registry_is_bounded_as_rq_never_cleans_it(client):
    client.zadd(f"rq:canceled:{QUEUE}", {f"old-{number}": number for number in range(10_000)})
    submit_jobs(client, "a")
    cancel_job(client, "a")
    assert client.zcard(f"rq:canceled:{QUEUE}") == 10_000
    assert client.zscore(f"rq:canceled:{QUEUE}", "old-0") is None
    assert client.zscore(f"rq:canceled:{QUEUE}", "old-1") is not None


def test_subscribers_of_the_channel_hear_of_it(client):
    submit_jobs(client, "a")
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(KEYS.tokens("a"))
    channel.get_message(timeout=1)
    cancel_job(client, "a")
    assert channel.get_message(timeout=1)["data"].decode() == events(client, "a")[0].to_json()
    channel.close()


@pytest.mark.parametrize("registry", ["deferred", "scheduled", "failed", "finished"])
def test_a_job_that_stands_in_a_registry_of_rqs_is_ended_and_leaves_it(client, registry):
    """Deferred, scheduled, or ended by RQ behind our back."""
    client.hset("rq:job:a", mapping={"origin": QUEUE, "status": registry})
    client.zadd(f"rq:{registry}:{QUEUE}", {"a": 2e9, "b": 2e9})
    assert cancel_job(client, "a") == "cancelled"
    assert client.zrange(f"rq:{registry}:{QUEUE}", 0, -1) == [b"b"]
    assert events(client, "a")[-1].is_terminal


@pytest.mark.parametrize("take", [taken, running], ids=["popped", "running"])
def test_whoever_holds_the_job_is_asked(client, take):
    take(client, "a")
    for _ in range(2):
        assert cancel_job(client, "a") == "requested"
    assert 690 < client.ttl(KEYS.cancel("a")) <= 700
    assert ids(client, "a") == []


def test_a_worker_of_an_earlier_version_is_known_by_rqs_hash(client):
    running(client, "a")
    client.hdel("rq:job:a", "taken_by")
    assert cancel_job(client, "a") == "requested"


def test_a_job_that_rq_has_failed_while_it_runs_is_its_workers_to_end(client):
    running(client, "a")
    client.hset("rq:job:a", mapping={"status": "failed", "worker_name": ""})
    assert cancel_job(client, "a") == "requested"


def test_one_that_has_let_go_of_the_job_is_not_asked(client):
    running(client, "a")
    put_back(KEYS, "w1", "a", QUEUE, engine_died=False).run(client)
    client.hset("rq:job:a", "taken_by", "w1")
    assert cancel_job(client, "a") == "cancelled"
    assert items(client, NORMAL) == []


@pytest.mark.parametrize("gone", [[], ["events"], ["result"], ["hash"], ["hash", "events"]])
def test_a_job_that_has_ended_is_left_alone(client, gone):
    finish(client, running(client, "a"))
    names = {"events": KEYS.events("a"), "result": KEYS.result("a"), "hash": "rq:job:a"}
    for name in gone:
        client.delete(names[name])
    before = state(client)
    assert cancel_job(client, "a") == "ended"
    assert state(client) == before


def test_a_job_that_was_cancelled_has_ended(client):
    submit_jobs(client, "a")
    cancel_job(client, "a")
    before = state(client)
    assert cancel_job(client, "a") == "ended"
    assert request_stop(KEYS, "a", ttl_s=30).run(client) is False
    assert state(client) == before


def test_a_result_beside_a_stream_that_goes_on_is_no_end(client):
    submit_jobs(client, "a")
    append(client, "a", "0-0", entry("1-0", STARTED, "started"), as_owner=False)
    client.set(KEYS.result("a"), "{}")
    assert cancel_job(client, "a") == "cancelled"
    assert ids(client, "a") == ["1-0", "2-1"]


def test_newer_events_are_to_be_read_first(client):
    submit_jobs(client, "a")
    append(client, "a", "0-0", entry("1-0", STARTED, "started"), as_owner=False)
    before = state(client)
    assert cancel_job(client, "a", known=False) == "changed"
    assert state(client) == before


def test_a_job_whose_hash_is_gone_is_ended_without_a_new_one(client):
    append(client, "a", "0-0", entry("1-0", STARTED, "started"), as_owner=False)
    assert cancel_job(client, "a") == "cancelled"
    assert ids(client, "a") == ["1-0", "2-1"]
    assert not client.exists("rq:job:a")


def test_a_job_that_was_cleared_for_another_run_can_be_ended(client):
    """Its stream is empty, and refuses ids below those of the run before."""
    finish(client, running(client, "a"), event_id="3-7")
    assert clear(KEYS, "w1", "a").run(client)
    put_back(KEYS, "w1", "a", QUEUE, engine_died=False).run(client)
    assert cancel_job(client, "a") == "cancelled"
    assert [event.event.type for event in events(client, "a")] == ["cancelled"]


# -- RQ's stop command


def test_a_stop_command_is_a_request_to_cancel(client):
    running(client, "a")
    assert request_stop(KEYS, "a", ttl_s=30).run(client) is True
    assert 25 < client.ttl(KEYS.cancel("a")) <= 30


@pytest.mark.parametrize("gone", [None, "events", "result"])
def test_a_stop_command_that_comes_after_the_end_leaves_nothing_for_the_next_job_of_the_id(client, gone):
    finish(client, running(client, "a"))
    if gone:
        client.delete(KEYS.events("a") if gone == "events" else KEYS.result("a"))
    assert request_stop(KEYS, "a", ttl_s=30).run(client) is False
    assert not client.exists(KEYS.cancel("a"))
