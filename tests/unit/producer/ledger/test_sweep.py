"""Who is alive, what the dead have left, and what waits too long."""

import pytest
import redis

from producer.ledger.sweep import (
    JOBS_AT_ONCE,
    SCHEDULED_AT_ONCE,
    Member,
    RingEntry,
    Scheduled,
    beat as beat_step,
    claim,
    leave,
    schedule,
    settled,
    sweep,
)
from producer.ledger.take import park

from .steps import (
    HIGH,
    KEYS,
    NORMAL,
    NOW,
    field,
    finish,
    items,
    redis_ms,
    running,
    state,
    submit_jobs,
    take_next,
    taken,
)

RECORD = {"birth": NOW, "state": "idle"}
RING, DEADLINES = KEYS.ring("tiny"), KEYS.deadlines("tiny")
DEAD = KEYS.taken("dead")
QUEUE = KEYS.queue("tiny")


def beat(client, worker="w1", *, client_id=0, ttl_s=100, model="tiny", **record):
    entry = RingEntry(worker, "run" if client_id else "-", client_id)
    fields = {**RECORD, **record}
    return beat_step(KEYS, model, entry, fields, ttl_s=ttl_s, keep_s=1000).run(client)


@pytest.mark.parametrize(
    ("raw", "entry"),
    [
        (b"a b run 7", RingEntry("a b", "run", 7)),
        (b"a - 0", RingEntry("a")),
        (b"a\xff run x", RingEntry("a\ufffd", "run", 0)),
        (b"7", RingEntry("", "-", 7)),
    ],
)
def test_whatever_stands_in_the_ring_is_read(raw, entry):
    assert RingEntry.parse(raw) == entry


def test_a_name_that_is_no_text_is_that_of_a_member():
    assert Member.parse(b"a\xff b tiny") == Member("a\ufffd b", "tiny")


def ring(client):
    return [RingEntry.parse(raw) for raw in client.zrange(RING, 0, -1)]


# -- beats


def test_a_beat_says_until_when_the_worker_lives_on_redis_clock(client):
    seen = beat(client, ttl_s=6)
    assert abs(seen.now_ms - redis_ms(client)) < 10_000
    assert client.zscore(KEYS.beats, "w1 tiny") == seen.now_ms + 6000
    assert client.hgetall("rq:worker:w1") == {name.encode(): value.encode() for name, value in RECORD.items()}
    assert 0 < client.pttl("rq:worker:w1") <= 6000
    assert 990 < client.ttl(KEYS.beats) <= 1000
    assert 990 < client.ttl(RING) <= 1000
    assert ring(client) == [RingEntry("w1")]


def test_a_beat_brings_back_what_an_empty_redis_has_lost(client):
    sets = ["rq:workers", *(f"rq:workers:{queue}" for queue in KEYS.queues("tiny"))]
    for _ in range(2):
        beat(client)
        assert [client.smembers(name) for name in sets] == [{b"rq:worker:w1"}] * 4
        client.flushall()
    beat(client)
    client.srem(sets[1], "rq:worker:w1")
    beat(client)
    assert not client.exists(sets[1]), "only a Redis that has forgotten the worker has forgotten the rest"


@pytest.mark.parametrize("what", ["all", "its record"])
def test_a_worker_is_forgotten_although_rq_has_written_of_its_job_since(client, what):
    """It was not to be seen again for as long as it ran: producers said that nobody serves its model."""
    beat(client)
    client.delete("rq:worker:w1")
    if what != "its record":
        client.srem("rq:workers", "rq:worker:w1")
        client.srem(f"rq:workers:{KEYS.queue('tiny')}", "rq:worker:w1")
    client.hset("rq:worker:w1", mapping={"state": "idle", "successful_job_count": 1})
    entry = RingEntry("w1", "-", 0)
    step = beat_step(KEYS, "tiny", entry, {"state": "idle", "last_heartbeat": NOW}, ttl_s=100, keep_s=1000)
    assert step.run(client).is_forgotten
    assert client.smembers(f"rq:workers:{KEYS.queue('tiny')}") == {b"rq:worker:w1"}
    beat(client)
    assert not beat(client).is_forgotten


def test_each_worker_watches_the_two_after_it_in_a_ring(client):
    for name in ("c", "a", "d", "b"):
        beat(client, name)
    after = {name: [entry.worker for entry in beat(client, name).after] for name in "abcd"}
    assert after == {"a": ["b", "c"], "b": ["c", "d"], "c": ["d", "a"], "d": ["a", "b"]}


@pytest.mark.parametrize(("others", "watched"), [("", []), ("b", ["b"]), ("bc", ["b", "c"])])
def test_a_small_ring_is_watched_once(client, others, watched):
    for name in others:
        beat(client, name)
    assert [entry.worker for entry in beat(client, "a").after] == watched
    assert [entry.worker for entry in beat(client, "a").after] == watched


def test_a_beat_tells_which_of_the_watched_hear_commands(client):
    for members, name in enumerate(("a", "b b", "c", "d"), start=1):
        assert beat(client, name, client_id=7).members == members
    assert beat(client, "a").hear == (False, False)
    with client.pubsub() as channel:
        for name in ("b b", "d"):
            channel.subscribe(f"rq:pubsub:{name}")
            channel.get_message(timeout=60)
        assert beat(client, "a").hear == (True, False)
        assert beat(client, "b b").hear == (False, True)


def test_a_beat_that_may_not_ask_for_listeners_is_one(redis_client):
    for name in "ab":
        beat(redis_client, name)
    redis_client.acl_setuser("default", enabled=True, nopass=True, commands=["-pubsub"])
    try:
        seen = beat(redis_client, "a")
    finally:
        redis_client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"])
    assert (len(seen.after), seen.hear) == (1, ())


def test_a_worker_with_a_new_connection_has_one_place_in_the_ring(client):
    for client_id in (7, 8, 8):
        beat(client, client_id=client_id)
    assert ring(client) == [RingEntry("w1", "run", 8)]


def test_a_worker_that_goes_has_no_place_in_the_ring_left(client):
    """What stood there for ever might be the first of the ring, and nobody would keep house."""
    beat(client, "w1", client_id=7)
    leave(KEYS, Member("w1", "tiny")).run(client)
    assert ring(client) == []
    assert beat(client, "w2").is_first


def test_a_worker_whose_beat_is_over_is_seen_by_all(client):
    beat(client, "dead", ttl_s=0)
    beat(client, "other", model="other", ttl_s=0)
    assert set(beat(client).overdue) == {Member("dead", "tiny"), Member("other", "other")}
    assert beat(client, "w2").overdue == beat(client).overdue


def test_the_first_of_the_ring_sees_what_is_to_be_done_for_all(client):
    submit_jobs(client, "a")
    beat(client, "w1")
    seen = beat(client, "w1")
    assert (seen.is_first, seen.has_late, seen.has_scheduled) == (True, False, False)
    client.zadd(DEADLINES, {"a": 1})
    client.zadd(f"rq:scheduled:{KEYS.queue('tiny', 'low')}", {"b": 1})
    seen = beat(client, "w1")
    assert (seen.is_first, seen.has_late, seen.has_scheduled) == (True, True, True)
    seen = beat(client, "w2")
    assert (seen.is_first, seen.has_late, seen.has_scheduled) == (False, False, False)


# -- leaving


def test_a_worker_that_goes_leaves_nothing(client):
    beat(client)
    submit_jobs(client, "a")
    take_next(client)
    client.delete(KEYS.taken("w1"))
    leave(KEYS, Member("w1", "tiny")).run(client)
    assert not client.exists(KEYS.beats, RING, KEYS.takers)


def test_what_a_worker_that_goes_still_holds_is_free_at_once(client):
    beat(client)
    running(client, "a")
    leave(KEYS, Member("w1", "tiny")).run(client)
    assert ring(client) == []
    assert beat(client, "w2").overdue == (Member("w1", "tiny"),)
    assert bury(client, "w1").back == ("a",)


def test_an_end_that_a_worker_that_goes_was_telling_of_is_told_by_the_next(client):
    beat(client)
    finish(client, running(client, "a", "dead"), worker="dead")
    claim(KEYS, "dead", "w1", b"a", ttl_s=1000).run(client)
    leave(KEYS, Member("w1", "tiny")).run(client)
    assert beat(client, "w2").overdue == (Member("w1", "tiny"),)
    assert bury(client, "w1", taker=KEYS.settler("w1")).ended == (b"a",)


# -- sweeps


def bury(client, worker="dead", sign="overdue", taker=None, entry=None):
    return sweep(KEYS, taker or worker, Member(worker, "tiny"), sign, entry=entry, now=NOW).run(client)


def test_a_running_job_of_the_dead_goes_to_the_front_and_its_death_counts(client):
    beat(client, "dead", ttl_s=0)
    running(client, "a", "dead")
    submit_jobs(client, "next")
    client.hset("rq:execution:a:1", "worker_name", "dead")
    client.zadd("rq:executions:a", {"1": 1})
    client.zadd(f"rq:wip:{QUEUE}", {"a:1": 1})
    client.sadd("rq:worker:dead:executions", "a:1")
    client.zadd(f"rq:failed:{QUEUE}", {"a": 1})
    swept = bury(client)
    assert (swept.back, swept.ended) == (("a",), ())
    assert items(client, NORMAL) == ["a", "next"]
    names = ("status", "worker_name", "taken_by", "deaths", "lost_by", "started_at")
    assert [field(client, "a", name) for name in names] == ["queued", "", "", "1", "dead", NOW]
    left = ("rq:execution:a:1", "rq:executions:a", f"rq:wip:{QUEUE}", f"rq:failed:{QUEUE}")
    left += ("rq:worker:dead:executions",)
    assert not client.exists(*left, DEAD, KEYS.takers, KEYS.beats, RING)


def test_a_parked_job_of_the_dead_goes_to_the_front_and_counts_no_death(client):
    """Another job ran when the worker died."""
    beat(client, "dead", ttl_s=0)
    for job_id in ("parked", "ran", "parked before, elsewhere"):
        running(client, job_id.replace(" ", "-").replace(",", ""), "dead")
    park(KEYS, "dead", "parked", is_parked=True).run(client)
    client.hset("rq:job:parked-before-elsewhere", "parked_by", "another")
    bury(client)
    assert sorted(items(client, NORMAL)) == ["parked", "parked-before-elsewhere", "ran"]
    deaths = [field(client, job_id, "deaths") for job_id in ("parked", "ran", "parked-before-elsewhere")]
    assert deaths == [None, "1", "1"]
    assert field(client, "parked", "parked_by") is None


def test_a_job_that_did_not_run_in_the_dead_has_met_its_deadline_and_counts_no_death(client):
    taken(client, "a", "dead")
    bury(client)
    assert field(client, "a", "deaths") is None
    assert field(client, "a", "started_at") == NOW


def test_the_start_that_rq_knows_of_is_kept(client):
    running(client, "a", "dead")
    client.hset("rq:job:a", "started_at", "2025-01-01T00:00:00Z")
    bury(client)
    assert field(client, "a", "started_at") == "2025-01-01T00:00:00Z"


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled", "started"])
def test_whatever_rq_says_a_job_without_an_end_of_ours_goes_back(client, status):
    running(client, "a", "dead")
    client.hset("rq:job:a", "status", status)
    assert bury(client).back == ("a",)


@pytest.mark.parametrize("left", ["events and result", "events", "result"])
def test_a_job_that_has_ended_stays_until_rq_is_told(client, left):
    finish(client, running(client, "a", "dead"), worker="dead")
    if left != "events and result":
        client.delete(KEYS.result("a") if left == "events" else KEYS.events("a"))
    swept = bury(client)
    assert (swept.back, swept.ended) == ((), (b"a",))
    assert items(client, DEAD) == ["a"]
    assert items(client, NORMAL) == []
    assert client.smembers(KEYS.takers) == {b"dead"}


def test_a_result_beside_a_stream_that_goes_on_is_no_end(client):
    running(client, "a", "dead")
    client.xadd(KEYS.events("a"), {"type": "started", "data": "{}"}, id="1-0")
    client.set(KEYS.result("a"), "{}")
    assert bury(client).back == ("a",)


def test_an_end_of_which_nobody_can_be_told_is_dropped(client):
    finish(client, running(client, "a", "dead"), worker="dead")
    client.delete("rq:job:a")
    swept = bury(client)
    assert (swept.back, swept.ended) == ((), ())
    assert items(client, DEAD) == items(client, NORMAL) == []


@pytest.mark.parametrize("origin", ["mail", None, "generate"])
def test_a_job_that_names_none_of_our_queues_goes_to_the_workers(client, origin):
    taken(client, "a", "dead")
    client.hdel("rq:job:a", "origin")
    if origin:
        client.hset("rq:job:a", "origin", origin)
    bury(client)
    assert items(client, NORMAL) == ["a"]


def test_a_job_goes_back_to_the_queue_of_its_priority(client):
    submit_jobs(client, "a", priority="high")
    take_next(client, "dead")
    bury(client)
    assert items(client, HIGH) == ["a"]


def test_a_run_of_another_worker_is_left_alone(client):
    running(client, "a", "dead")
    client.hset("rq:execution:a:1", "worker_name", "other")
    client.zadd("rq:executions:a", {"1": 1, "2": 1})  # the hash of the second has expired
    client.zadd(f"rq:wip:{QUEUE}", {"a:1": 1, "a:2": 1})
    bury(client)
    assert client.exists("rq:execution:a:1")
    assert client.zrange("rq:executions:a", 0, -1) == [b"1"]
    assert client.zrange(f"rq:wip:{QUEUE}", 0, -1) == [b"a:1"]


@pytest.mark.parametrize("put", [lambda client: None, lambda client: client.set("rq:job:a", "foreign")])
def test_a_job_without_a_hash_goes_back_for_whoever_refuses_it(client, put):
    taken(client, "a", "dead")
    client.delete("rq:job:a")
    put(client)
    assert bury(client).back == ("a",)
    assert items(client, NORMAL) == ["a"]


def test_an_id_that_is_no_text_goes_back_as_it_is(client):
    beat(client, "dead", ttl_s=0)
    client.sadd(KEYS.takers, "dead")
    client.rpush(DEAD, b"a\xff")
    assert bury(client).back == ("a\ufffd",)
    assert client.lrange(NORMAL, 0, -1) == [b"a\xff"]


def test_what_stands_in_place_of_the_list_does_not_keep_the_dead_among_the_living(client):
    beat(client, "dead", ttl_s=0)
    client.sadd(KEYS.takers, "dead")
    client.set(DEAD, "foreign")
    assert bury(client).back == ()
    assert not client.exists(KEYS.takers, KEYS.beats, RING)
    assert client.get(DEAD) == b"foreign"


def test_no_step_moves_many_jobs(client):
    job_ids = [f"job-{number}" for number in range(JOBS_AT_ONCE + 1)]
    client.rpush(DEAD, *job_ids)
    client.sadd(KEYS.takers, "dead")
    assert len(bury(client).back) == JOBS_AT_ONCE
    assert client.smembers(KEYS.takers) == {b"dead"}
    assert len(bury(client).back) == 1
    assert not client.exists(KEYS.takers)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("priority", ["high", "normal"])
def test_of_a_job_whose_hash_is_gone_no_run_is_shown(client, priority, ended):
    """RQ shows it as running for ever: what stands in its registry of started jobs does not expire."""
    queue = KEYS.queue("tiny", priority)
    running(client, "a", "dead")
    client.hset("rq:execution:a:1", "worker_name", "dead")
    client.zadd("rq:executions:a", {"1": 1})
    client.zadd(f"rq:wip:{queue}", {"a:1": "+inf"})
    if ended:
        finish(client, "a", worker="dead")
    client.delete("rq:job:a")
    bury(client)
    assert not client.exists("rq:execution:a:1", "rq:executions:a", f"rq:wip:{queue}")


@pytest.mark.parametrize("name", [f"rq:failed:{QUEUE}", f"rq:wip:{QUEUE}"])
def test_no_job_is_lost_to_what_stands_in_place_of_a_registry(client, name):
    running(client, "a", "dead")
    client.zadd("rq:executions:a", {"1": 1})
    client.set(name, "foreign")
    assert bury(client).back == ("a",)
    assert items(client, NORMAL) == ["a"]


def test_a_job_whose_queue_is_none_stays_where_it_is_found_again(client):
    running(client, "a", "dead")
    client.set(NORMAL, "foreign")
    with pytest.raises(redis.ResponseError):
        bury(client)
    assert items(client, DEAD) == ["a"]
    client.delete(NORMAL)
    assert bury(client).back == ("a",)


# -- signs of a death


def test_a_worker_that_beats_again_is_not_overdue(client):
    running(client, "a", "dead")
    beat(client, "dead")
    before = state(client)
    assert bury(client) is None
    assert state(client) == before


@pytest.mark.parametrize(("stands", "is_dead"), [(7, True), (8, False)])
def test_a_worker_is_gone_while_its_place_in_the_ring_is_that_of_the_lost_connection(client, stands, is_dead):
    running(client, "a", "dead")
    beat(client, "dead", client_id=stands)
    swept = bury(client, sign="gone", entry=RingEntry("dead", "run", 7))
    assert (swept is not None) == is_dead
    assert (items(client, DEAD) == []) == is_dead
    assert (ring(client) == []) == is_dead


def test_a_beat_tells_whether_the_record_was_forgotten(client):
    assert beat(client).is_forgotten
    assert not beat(client).is_forgotten
    assert not beat(client, chat_template="1").is_forgotten, "one field is new"
    client.delete("rq:worker:w1")
    assert beat(client).is_forgotten


def test_a_worker_whose_process_has_ended_is_dead_though_its_beat_counts_and_its_connection_stands(client):
    running(client, "a", "dead")
    beat(client, "dead", client_id=7)
    assert bury(client, sign="exited").back == ("a",)
    assert client.hget("rq:job:a", "deaths") == b"1"
    assert client.zscore(KEYS.beats, "dead tiny") is None
    assert (items(client, NORMAL), items(client, DEAD), ring(client)) == (["a"], [], [])


def test_what_the_dead_had_sent_and_redis_got_late_is_swept_by_a_second_sweep(client):
    beat(client, "dead")
    assert bury(client, sign="exited") is not None
    beat(client, "dead", client_id=7)
    running(client, "a", "dead")
    assert bury(client, sign="exited").back == ("a",)
    assert (items(client, DEAD), ring(client), client.zcard(KEYS.beats)) == ([], [], 0)


def test_a_worker_whose_name_begins_alike_keeps_its_place(client):
    for name in ("dead", "dead-2", "dea"):
        beat(client, name, client_id=7)
    client.zadd(KEYS.beats, {"dead tiny": 0})
    bury(client)
    assert [entry.worker for entry in ring(client)] == ["dea", "dead-2"]
    assert client.zscore(KEYS.beats, "dead-2 tiny") is not None


@pytest.mark.parametrize(
    ("record", "beats", "is_dead"),
    [("gone", False, True), ("for ever", False, True), ("live", False, False), ("gone", True, False)],
)
def test_a_worker_of_an_earlier_version_lives_by_its_record(client, record, beats, is_dead):
    running(client, "a", "dead")
    if beats:
        beat(client, "dead")
        client.delete("rq:worker:dead")
    if record != "gone":
        client.hset("rq:worker:dead", "birth", NOW)
    if record == "live":
        client.expire("rq:worker:dead", 100)
    assert (bury(client, sign="expired") is not None) == is_dead


# -- ends to be told of


def test_an_end_is_taken_on_by_one_alone(client):
    finish(client, running(client, "a", "dead"), worker="dead")
    assert claim(KEYS, "dead", "w1", b"a", ttl_s=1000).run(client) is True
    assert claim(KEYS, "dead", "w2", b"a", ttl_s=1000).run(client) is False
    assert items(client, KEYS.settling("w1")) == ["a"]
    assert items(client, DEAD) == items(client, KEYS.settling("w2")) == []
    assert client.smembers(KEYS.takers) == {b"dead", b"w1.settling"}
    assert 990 < client.ttl(KEYS.settling("w1")) <= 1000
    assert 990 < client.ttl(KEYS.takers) <= 1000


def test_an_end_that_cannot_be_taken_on_stays_with_the_dead(client):
    finish(client, running(client, "a", "dead"), worker="dead")
    client.set(KEYS.settling("w1"), "foreign")
    with pytest.raises(redis.ResponseError):
        claim(KEYS, "dead", "w1", b"a", ttl_s=1000).run(client)
    assert items(client, DEAD) == ["a"]


def test_an_end_that_rq_was_told_of_is_put_down(client):
    for job_id in "ab":
        finish(client, running(client, job_id, "dead"), worker="dead")
        claim(KEYS, "dead", "w1", job_id.encode(), ttl_s=1000).run(client)
    settled(KEYS, "w1", b"a").run(client)
    assert items(client, KEYS.settling("w1")) == ["b"]
    assert b"w1.settling" in client.smembers(KEYS.takers)
    settled(KEYS, "w1", b"b").run(client)
    assert not client.exists(KEYS.settling("w1"))
    assert b"w1.settling" not in client.smembers(KEYS.takers)


def test_ends_that_a_dead_sweeper_was_telling_of_are_told_by_the_next(client):
    finish(client, running(client, "a", "dead"), worker="dead")
    claim(KEYS, "dead", "sweeper", b"a", ttl_s=1000).run(client)
    client.rpush(KEYS.settling("sweeper"), "no end")
    swept = bury(client, "sweeper", taker=KEYS.settler("sweeper"))
    assert (swept.back, swept.ended) == ((), (b"a",))
    assert items(client, KEYS.settling("sweeper")) == ["a"]
    assert items(client, NORMAL) == [], "it was never the sweeper's to run"


def test_a_sweepers_list_of_ends_is_not_its_list_of_jobs(client):
    """Only with the latter is the worker forgotten."""
    beat(client, "sweeper", ttl_s=0)
    running(client, "a", "sweeper")
    bury(client, "sweeper", taker=KEYS.settler("sweeper"))
    assert beat(client, "w1").overdue == (Member("sweeper", "tiny"),)
    assert [entry.worker for entry in ring(client)] == ["sweeper", "w1"]


# -- the schedule


def scheduled(client, job_id, at_s, queue=QUEUE, **fields):
    client.hset(f"rq:job:{job_id}", mapping={"origin": queue, "status": "scheduled", **fields})
    client.zadd(f"rq:scheduled:{queue}", {job_id: at_s})


def start_due(client):
    return schedule(KEYS, "tiny", now=NOW).run(client).due


def test_scheduled_jobs_are_enqueued_once_their_time_has_come(client):
    before_ms = redis_ms(client)
    scheduled(client, "due", before_ms / 1000 - 1)
    scheduled(client, "later", before_ms / 1000 + 1000)
    assert start_due(client) == 1
    assert items(client, NORMAL) == ["due"]
    assert client.zrange(f"rq:scheduled:{QUEUE}", 0, -1) == [b"later"]
    assert (field(client, "due", "status"), field(client, "due", "enqueued_at")) == ("queued", NOW)
    assert int(field(client, "due", "queued_at_ms")) >= before_ms - 1
    assert client.smembers("rq:queues") == {NORMAL.encode()}
    assert start_due(client) == 0


def test_a_scheduled_job_whose_queue_is_none_stays_scheduled(client):
    scheduled(client, "a", 1)
    client.set(NORMAL, "foreign")
    with pytest.raises(redis.ResponseError):
        start_due(client)
    assert client.zrange(f"rq:scheduled:{QUEUE}", 0, -1) == [b"a"]
    assert field(client, "a", "status") == "scheduled"
    client.delete(NORMAL)
    assert start_due(client) == 1


def test_a_scheduled_job_goes_to_the_end_of_its_queue_or_to_the_front_if_it_says_so(client):
    submit_jobs(client, "waits")
    scheduled(client, "plain", 1)
    scheduled(client, "urgent", 2, enqueue_at_front="1")
    assert start_due(client) == 2
    assert items(client, NORMAL) == ["urgent", "waits", "plain"]


@pytest.mark.parametrize(("ended_at", "order"), [(NOW, ["again", "waits"]), ("", ["waits", "again"])])
def test_a_retry_goes_to_the_front_if_its_job_asks_for_that_and_a_first_run_does_not(client, ended_at, order):
    submit_jobs(client, "waits")
    scheduled(client, "again", 1, enqueue_at_front="0", enqueue_at_front_on_retry="1", ended_at=ended_at)
    assert start_due(client) == 1
    assert items(client, NORMAL) == order


def test_a_scheduled_job_with_a_rate_limit_waits_for_rq_to_let_it_through(client):
    scheduled(client, "a", 1, rate_limit_key="mine", rate_limit_concurrency="2", enqueue_at_front="1")
    assert schedule(KEYS, "tiny", now=NOW).run(client) == Scheduled(due=1, limited=1)
    assert items(client, NORMAL) == []
    assert client.zrange("rq:rl:mine:rate_limited", 0, -1) == [b"a"]
    assert (field(client, "a", "status"), field(client, "a", "enqueue_at_front")) == ("rate_limited", "1")
    assert client.smembers("rq:rl-keys") == {b"mine"}
    assert client.hget("rq:rl:mine", "concurrency") == b"2"


@pytest.mark.parametrize("key", ["rq:rl-keys", "rq:rl:mine:rate_limited"])
def test_a_rate_limit_that_nobody_can_keep_is_none(client, key):
    client.set(key, "foreign")
    scheduled(client, "a", 1, rate_limit_key="mine", rate_limit_concurrency="2")
    assert schedule(KEYS, "tiny", now=NOW).run(client) == Scheduled(due=1, limited=0)
    assert items(client, NORMAL) == ["a"]


def test_a_scheduled_job_without_a_hash_goes_to_whoever_refuses_it(client):
    client.zadd(f"rq:scheduled:{QUEUE}", {"a": 1})
    assert start_due(client) == 1
    assert items(client, NORMAL) == ["a"]
    assert not client.exists("rq:job:a")


def test_no_step_starts_many_jobs(client):
    client.zadd(f"rq:scheduled:{QUEUE}", {f"job-{number}": 1 for number in range(SCHEDULED_AT_ONCE + 1)})
    assert start_due(client) == SCHEDULED_AT_ONCE
    assert start_due(client) == 1


# -- their forms on Redis


@pytest.mark.parametrize("raw", [b"w1 run 7", b"a b run 7", b"w1 run many", b"", b"\xff"])
def test_what_stands_in_the_ring_is_read_whatever_it_is(raw):
    assert RingEntry.parse(raw).client_id == (7 if raw.endswith(b"7") else 0)


def test_a_member_is_read_from_its_form():
    assert Member.parse(str(Member("my worker", "tiny")).encode()) == Member("my worker", "tiny")
