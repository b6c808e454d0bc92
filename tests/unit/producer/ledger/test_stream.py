"""A job's stream, from the side of whoever writes it."""

import json

import pytest
import redis

from producer.contract import BEFORE_FIRST, EventId
from producer.ledger.stream import clear, discard_result, discard_stream, last_id

from .steps import (
    KEYS,
    append,
    entry,
    finish,
    ids,
    result_of,
    running,
    state,
)

MINE = KEYS.taken("w1")


def test_events_are_appended_in_order_and_mirrored(client):
    running(client, "a")
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(KEYS.tokens("a"))
    channel.get_message(timeout=1)
    appended = append(client, "a", "0-0", entry("1-0"), entry("1-1", '{"text":"hi"}'))
    assert (appended.answer, str(appended.last), appended.cancel_requested) == ("ok", "1-1", False)
    assert ids(client, "a") == ["1-0", "1-1"]
    assert 190 < client.ttl(KEYS.events("a")) <= 200
    assert not client.exists(KEYS.result("a"))
    messages = [json.loads(channel.get_message(timeout=1)["data"]) for _ in range(2)]
    assert messages[1] == {"id": "1-1", "type": "tokens", "data": {"text": "hi"}}
    channel.close()


def test_an_append_sees_that_somebody_asks_for_the_jobs_cancellation(client):
    running(client, "a")
    client.set(KEYS.cancel("a"), "1")
    assert append(client, "a", "0-0", entry("1-0")).cancel_requested is True


def test_an_end_has_its_result_and_takes_the_request_to_cancel_away(client):
    running(client, "a")
    client.set(KEYS.cancel("a"), "1")
    finish(client, "a")
    assert client.get(KEYS.result("a")) == result_of("a").model_dump_json().encode()
    assert 190 < client.ttl(KEYS.result("a")) <= 200
    assert not client.exists(KEYS.cancel("a"))


def test_an_end_wakes_those_who_wait_for_it(client):
    running(client, "a")
    client.sadd(KEYS.waiters("a"), KEYS.wake("1"), KEYS.wake("2"))
    append(client, "a", "0-0", entry("1-0"))
    assert not client.exists(KEYS.wake("1"))
    finish(client, "a", "1-0", "1-1")
    for follower in "12":
        assert client.xrange(KEYS.wake(follower))[0][1] == {b"ended": b"a"}
        assert 50 < client.ttl(KEYS.wake(follower)) <= 60
    assert not client.exists(KEYS.waiters("a"))


@pytest.mark.parametrize("sent", [1, 2], ids=["all of it", "a part"])
def test_an_append_whose_answer_was_lost_is_not_repeated(client, sent):
    running(client, "a")
    batch = [entry("1-0"), entry("1-1", '{"text":"b"}')]
    append(client, "a", "0-0", *batch[:sent])
    assert append(client, "a", "0-0", *batch).answer == "ok"
    assert ids(client, "a") == ["1-0", "1-1"]


def test_the_same_id_with_other_data_is_somebody_elses(client):
    running(client, "a")
    append(client, "a", "0-0", entry("1-0", '{"worker":"w2"}'))
    assert append(client, "a", "0-0", entry("1-0")).answer == "fenced"
    assert append(client, "a", "0-0", entry("1-0"), entry("1-1")).answer == "fenced"
    assert ids(client, "a") == ["1-0"]


def test_a_stream_that_is_ahead_fences_off_and_one_that_is_behind_is_filled_up(client):
    running(client, "a")
    append(client, "a", "0-0", entry("1-0"), entry("2-1", '{"n":1}'))
    ahead = append(client, "a", "1-0", entry("1-1"))
    assert (ahead.answer, str(ahead.last), ahead.last_data) == ("fenced", "2-1", '{"n":1}')
    behind = append(client, "a", "2-5", entry("2-6"))
    assert (behind.answer, str(behind.last), behind.last_data) == ("behind", "2-1", '{"n":1}')
    assert ids(client, "a") == ["1-0", "2-1"]


@pytest.mark.parametrize(
    ("event_id", "data", "seen"),
    [("1-1", b"\xff", "\ufffd"), (f"{2**64 - 1}-0", b"{}", "{}")],
    ids=["data that is no text", "the largest id"],
)
def test_whatever_somebody_adds_to_a_running_job_fences_off_and_raises_nothing(client, event_id, data, seen):
    running(client, "a")
    append(client, "a", "0-0", entry("1-0"))
    client.xadd(KEYS.events("a"), {"type": "tokens", "data": data}, id=event_id)
    fenced = append(client, "a", "1-0", entry("1-1"))
    assert (fenced.answer, str(fenced.last), fenced.last_data) == ("fenced", event_id, seen)


@pytest.mark.parametrize(("last", "later"), [("2-1", "10-0"), ("1-9", "1-10")])
def test_ids_are_compared_as_numbers(client, last, later):
    running(client, "a")
    append(client, "a", "0-0", entry(last))
    assert append(client, "a", later, entry("11-11")).answer == "behind"


def test_a_lost_stream_begins_anew(client):
    running(client, "a")
    behind = append(client, "a", "2-5", entry("2-6"))
    assert (behind.answer, behind.last, behind.last_data) == ("behind", BEFORE_FIRST, "")


def test_a_stream_beside_a_result_is_not_filled_up(client):
    """The job has ended by another's hand: only its stream was lost."""
    running(client, "a")
    client.set(KEYS.result("a"), "{}")
    assert append(client, "a", "2-5", entry("2-6")).answer == "fenced"
    assert ids(client, "a") == []


def test_what_stands_in_place_of_the_stream_gives_way_to_it(client):
    running(client, "a")
    client.set(KEYS.events("a"), "foreign")
    assert append(client, "a", "0-0", entry("1-0")).answer == "ok"
    assert ids(client, "a") == ["1-0"]


def test_an_emptied_stream_keeps_its_last_id_over_an_append(client):
    """As it is cleared for another run: nothing of the run before gets in."""
    finish(client, running(client, "a"), event_id="3-0")
    clear(KEYS, "w1", "a").run(client)
    with pytest.raises(redis.ResponseError, match="equal or smaller"):
        append(client, "a", "0-0", entry("2-0"))
    assert append(client, "a", "0-0", entry("4-0")).answer == "ok"


# -- whose the job is


@pytest.mark.parametrize(
    "fields",
    [{"status": "queued", "worker_name": ""}, {"status": "started", "worker_name": "w2"}, {"status": "failed"}],
    ids=["back in its queue", "with another", "given up"],
)
def test_a_worker_that_was_swept_away_adds_nothing(client, fields):
    running(client, "a")
    client.delete(MINE)
    client.hset("rq:job:a", mapping=fields)
    before = state(client)
    assert append(client, "a", "0-0", entry("1-0")).answer == "fenced"
    assert state(client) == before


def test_a_worker_that_has_the_job_in_its_list_is_its_owner_whatever_rq_says(client):
    running(client, "a")
    client.hset("rq:job:a", mapping={"status": "failed", "worker_name": ""})
    assert append(client, "a", "0-0", entry("1-0")).answer == "ok"


def test_a_redis_that_came_back_without_lists_knows_the_owner_by_the_hash(client):
    client.hset("rq:job:a", mapping={"status": "started", "worker_name": "w1"})
    assert append(client, "a", "0-0", entry("1-0")).answer == "ok"
    client.delete("rq:job:a")
    assert append(client, "a", "1-0", entry("1-1")).answer == "ok"


@pytest.mark.parametrize("foreign", ["rq:job:a", MINE])
def test_where_nobody_can_tell_whose_the_job_is_it_has_its_end(client, foreign):
    client.hset("rq:job:a", mapping={"status": "started", "worker_name": "w2"})
    client.set(foreign, "foreign")
    finish(client, "a")
    assert ids(client, "a") == ["1-0"]


def test_without_an_owner_the_ids_are_the_fence(client):
    client.hset("rq:job:a", mapping={"status": "started", "worker_name": "w2"})
    assert append(client, "a", "0-0", entry("1-0"), as_owner=False).answer == "ok"
    assert append(client, "a", "0-0", entry("1-0", "other"), as_owner=False).answer == "fenced"


def test_an_append_of_one_token_costs_few_commands(redis_client):
    """Redis serves every worker: what one token costs there bounds them all."""
    running(redis_client, "a")
    append(redis_client, "a", "0-0", entry("1-0"))
    redis_client.config_resetstat()
    append(redis_client, "a", "1-0", entry("1-1"), looks_for_waiters=False)  # but for one a second
    calls = {
        name.removeprefix("cmdstat_"): stats["calls"]
        for name, stats in redis_client.info("commandstats").items()
        if not name.startswith("cmdstat_config")
    }
    assert calls["xadd"] == 1
    assert sum(calls.values()) <= 7, calls


# -- beginning anew


def test_the_life_of_a_job_begins_anew_above_its_old_ids(client):
    finish(client, running(client, "a"), event_id="3-0")
    client.set(KEYS.cancel("a"), "1")
    assert clear(KEYS, "w1", "a").run(client) is True
    assert ids(client, "a") == []
    assert not client.exists(KEYS.result("a"), KEYS.cancel("a"))
    assert client.xinfo_stream(KEYS.events("a"))["last-generated-id"] == b"3-0"


def test_the_stream_of_a_job_that_is_not_ours_any_more_is_not_cleared(client):
    finish(client, running(client, "a"))
    client.delete(MINE)
    before = state(client)
    assert clear(KEYS, "w1", "a").run(client) is False
    assert state(client) == before


# -- what stands in place of stream and result


def test_the_last_id_of_a_stream_is_read_without_its_entry(client):
    job_id = running(client, "a")
    assert last_id(KEYS, job_id).run(client) == BEFORE_FIRST
    for event_id in ("1-9", "1-10"):
        client.xadd(KEYS.events(job_id), {"type": "tokens"}, event_id)
    assert last_id(KEYS, job_id).run(client) == EventId(1, 10)


def flat(client, job_id):
    [(entry_id, fields)] = client.xrevrange(KEYS.events(job_id), count=1)
    return [entry_id, *(part for pair in fields.items() for part in pair)]


def test_a_stream_is_deleted_that_ends_as_it_was_read(client):
    client.xadd(KEYS.events("a"), {"no": "event", "of": "ours"}, id="1-0")
    discard_stream(KEYS, "a", flat(client, "a")).run(client)
    assert not client.exists(KEYS.events("a"))


@pytest.mark.parametrize(
    "fields", [{"no": "event", "of": "others"}, {"no": "event"}, {"no": "event", "of": "ours", "x": "y"}]
)
def test_a_stream_is_kept_that_has_come_since(client, fields):
    client.xadd(KEYS.events("a"), {"no": "event", "of": "ours"}, id="1-0")
    seen = flat(client, "a")
    client.delete(KEYS.events("a"))
    client.xadd(KEYS.events("a"), fields, id="1-0")
    discard_stream(KEYS, "a", seen).run(client)
    assert client.exists(KEYS.events("a"))


def test_a_stream_is_kept_that_has_gone_on_since(client):
    client.xadd(KEYS.events("a"), {"no": "event"}, id="1-0")
    seen = flat(client, "a")
    client.xadd(KEYS.events("a"), {"no": "event"}, id="1-1")
    discard_stream(KEYS, "a", seen).run(client)
    assert client.exists(KEYS.events("a"))


def test_what_is_no_stream_is_deleted(client):
    client.rpush(KEYS.events("a"), "foreign")
    discard_stream(KEYS, "a", [b""]).run(client)
    assert not client.exists(KEYS.events("a"))


@pytest.mark.parametrize(("stands", "is_kept"), [("no JSON", False), ("{}", True), ("x" * 101, False)])
def test_what_stands_in_place_of_a_result_is_deleted_if_it_is_what_was_seen(client, stands, is_kept):
    client.set(KEYS.result("a"), stands)
    discard_result(KEYS, "a", b"no JSON", max_bytes=100).run(client)
    assert client.exists(KEYS.result("a")) == is_kept


def test_what_is_no_string_is_deleted(client):
    client.rpush(KEYS.result("a"), "foreign")
    discard_result(KEYS, "a", b"", max_bytes=100).run(client)
    assert not client.exists(KEYS.result("a"))
