"""A worker takes jobs, shows how far it is, and lets go of them."""

import pytest
import redis

from producer.contract import Keys
from producer.ledger.take import (
    DUE_AT_ONCE,
    Dropped,
    Run,
    begin,
    come_back,
    park,
    put_back,
    put_down,
    read_job,
    save_meta,
    take_due,
)

from .steps import (
    HIGH,
    KEYS,
    LOW,
    NORMAL,
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

MINE = KEYS.taken("w1")


# -- take


def test_jobs_come_by_priority_and_then_in_order(client):
    for job_id, priority in (("d", "low"), ("b", "normal"), ("a", "high"), ("c", "normal")):
        submit_jobs(client, job_id, priority=priority)
    order = []
    while (found := take_next(client, known=tuple(order))) is not None:
        order.append(found.job_id)
    assert order == items(client, MINE) == ["a", "b", "c", "d"]
    assert client.smembers(KEYS.takers) == {b"w1"}
    assert field(client, "a", "taken_by") == "w1"


def test_a_job_comes_with_its_known_fields_and_their_size(client):
    submit_jobs(client, "a")
    client.hset("rq:job:a", mapping={"exc_info": "x" * 5000, "result": "x" * 5000, "mine": "x" * 5000})
    before_ms = redis_ms(client)
    found = take_next(client)
    assert found.raw[b"data"] == b"{}"
    assert set(found.raw) == {
        *(b"origin", b"status", b"data", b"request_digest", b"queued_at_ms", b"expires_at_ms"),
    }
    assert found.size_bytes == sum(map(len, found.raw.values()))
    assert before_ms - 1 <= found.now_ms <= redis_ms(client)


def test_a_job_that_somebody_has_run_comes_with_a_stream(client):
    submit_jobs(client, "new", "begun", "gone")
    for job_id in ("begun", "gone"):
        client.xadd(KEYS.events(job_id), {"type": "started", "data": "{}"}, id="1-0")
    client.delete("rq:job:gone")
    found = [take_next(client, known=known) for known in ((), ("new",), ("new", "begun"))]
    assert [(each.job_id, each.has_stream) for each in found] == [("new", False), ("begun", True), ("gone", True)]


def test_a_job_above_the_bound_is_taken_and_not_loaded(client):
    submit_jobs(client, "a")
    client.hset("rq:job:a", "data", "x" * 1001)
    found = take_next(client)
    assert (found.job_id, found.raw) == ("a", {})
    assert found.size_bytes > 1000


@pytest.mark.parametrize("put", [lambda client: None, lambda client: client.set("rq:job:a", "foreign")])
def test_a_job_without_a_hash_is_taken(client, put):
    client.rpush(NORMAL, "a")
    put(client)
    found = take_next(client)
    assert (found.job_id, found.raw, found.size_bytes) == ("a", {}, 0)


def test_a_job_whose_answer_was_lost_comes_again(client):
    submit_jobs(client, "a", "b")
    assert take_next(client).job_id == take_next(client).job_id == "a"
    assert take_next(client, known=("a",)).job_id == "b"


@pytest.mark.parametrize(
    ("above", "order"), [("normal", ["h", "", ""]), ("low", ["h", "n", ""]), (None, ["h", "n", "l"])]
)
def test_of_higher_priorities_alone_where_a_running_job_is_to_make_way(client, above, order):
    for priority in ("low", "normal", "high"):
        submit_jobs(client, priority[0], priority=priority)
    found, known = [], ()
    for _ in order:
        job = take_next(client, known=known, above=above)
        found.append(job.job_id if job else "")
        known = (*known, *found)
    assert found == order


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("prefix", ["gen", "a@b"])
def test_one_whose_answer_was_lost_comes_again_where_it_was_asked_for(client, prefix, group):
    """Behind an @ stands a group, unless the prefix has one."""
    submit_jobs(client, "a", priority="high", group=group, keys=Keys(prefix))
    assert [take_next(client, above="low", keys=Keys(prefix)).job_id for _ in range(2)] == ["a", "a"]


def test_of_what_is_left_only_what_was_asked_for_comes(client):
    """The answer to a take was lost: it may have been one of any priority, or none that RQ knows."""
    for job_id, priority in (("low", "low"), ("high", "high")):
        submit_jobs(client, job_id, priority=priority)
        client.lrem(HIGH if priority == "high" else LOW, 1, job_id)
        client.rpush(MINE, job_id)
    client.lpush(MINE, "of no hash")
    assert take_next(client, above="low").job_id == "high"
    assert take_next(client, above="low", known=("high",)) is None
    assert take_next(client, known=("high",)).job_id == "of no hash"
    assert take_next(client, known=("high", "of no hash")).job_id == "low"


@pytest.mark.parametrize("raw", [b"", b"\xff", "päivä".encode(), b"x" * 129])
def test_what_is_no_job_id_is_dropped(client, raw):
    client.rpush(NORMAL, raw)
    assert take_next(client) == Dropped(len(raw))
    assert items(client, MINE) == items(client, NORMAL) == []
    assert not client.exists(b"rq:job:" + raw)


def test_the_longest_job_id_is_one(client):
    submit_jobs(client, "x" * 128)
    assert take_next(client).job_id == "x" * 128


def test_an_entry_of_a_job_that_another_worker_has_is_none(client):
    """RQ enqueued it again while it runs."""
    running(client, "a", "w2")
    submit_jobs(client, "b")
    client.lpush(NORMAL, "a")
    assert take_next(client).job_id == "b"
    assert items(client, NORMAL) == []
    assert items(client, KEYS.taken("w2")) == ["a"]


def test_an_entry_of_a_job_that_we_have_is_none(client):
    running(client, "a")
    client.lpush(NORMAL, "a", "a")
    assert take_next(client, known=("a",)) is None
    assert items(client, MINE) == ["a"]
    assert items(client, NORMAL) == []


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled"])
def test_an_entry_of_a_job_that_has_ended_is_none(client, status):
    """RQ let it stand in its queue twice: a job that was cancelled, say, must not run after all."""
    finish(client, running(client, "a"))
    put_down(KEYS, "w1", "a").run(client)
    client.hset("rq:job:a", "status", status)
    submit_jobs(client, "b")
    client.lpush(NORMAL, "a")
    assert take_next(client).job_id == "b"
    assert items(client, NORMAL) == []


@pytest.mark.parametrize(("status", "ended"), [("queued", True), ("failed", False), ("canceled", False)])
def test_a_job_that_rq_has_enqueued_again_or_that_has_no_end_of_ours_is_taken(client, status, ended):
    running(client, "a")
    if ended:
        finish(client, "a")
    put_down(KEYS, "w1", "a").run(client)
    client.hset("rq:job:a", "status", status)
    client.lpush(NORMAL, "a")
    assert take_next(client).job_id == "a"


def test_a_worker_that_does_not_have_the_job_any_more_keeps_it_from_nobody(client):
    submit_jobs(client, "a")
    client.hset("rq:job:a", "taken_by", "w2")
    assert take_next(client).job_id == "a"
    assert field(client, "a", "taken_by") == "w1"


def test_nothing_is_taken_while_rq_is_suspended(client):
    submit_jobs(client, "a")
    client.set("rq:suspended", "1")
    assert take_next(client) == "suspended"
    assert items(client, NORMAL) == ["a"]


def test_what_is_taken_waits_no_more_and_its_list_expires_some_time(client):
    taken(client, "a")
    assert client.zcard(KEYS.deadlines("tiny")) == 0
    assert 990 < client.ttl(MINE) <= 1000
    assert 990 < client.ttl(KEYS.takers) <= 1000


# -- take_due


def due(client, worker="w1"):
    return take_due(KEYS, worker, "tiny", list_ttl_s=1000).run(client)


def test_jobs_whose_time_is_over_are_taken_to_be_ended(client):
    submit_jobs(client, "late")
    submit_jobs(client, "later", priority="low")
    submit_jobs(client, "patient")
    client.zadd(KEYS.deadlines("tiny"), {"late": 1, "later": 2})
    assert due(client) == [b"late", b"later"]
    assert items(client, MINE) == ["late", "later"]
    assert field(client, "late", "taken_by") == "w1"
    assert items(client, NORMAL) == ["patient"]
    assert items(client, LOW) == []
    assert client.zrange(KEYS.deadlines("tiny"), 0, -1) == [b"patient"]
    assert client.smembers(KEYS.takers) == {b"w1"}
    assert 990 < client.ttl(MINE) <= 1000
    assert due(client) == []


def test_a_job_that_a_worker_has_had_does_not_expire(client):
    submit_jobs(client, "a")
    client.hset("rq:job:a", "started_at", "2026-01-01T00:00:00Z")
    client.zadd(KEYS.deadlines("tiny"), {"a": 1})
    assert due(client) == []
    assert items(client, NORMAL) == ["a"]


def test_a_deadline_of_a_job_that_waits_no_more_is_dropped(client):
    client.zadd(KEYS.deadlines("tiny"), {"gone": 1})
    assert due(client) == []
    assert not client.exists(KEYS.deadlines("tiny"), "rq:job:gone", MINE, KEYS.takers)


def test_a_late_job_that_cannot_be_taken_stays_in_its_queue(client):
    submit_jobs(client, "a")
    client.zadd(KEYS.deadlines("tiny"), {"a": 1})
    client.set(MINE, "foreign")
    before = state(client)
    with pytest.raises(redis.ResponseError):
        due(client)
    assert state(client) == before
    client.delete(MINE)
    assert due(client) == [b"a"]


def test_a_queue_that_is_none_keeps_no_late_job_in_another(client):
    submit_jobs(client, "a")
    client.zadd(KEYS.deadlines("tiny"), {"a": 1})
    client.set(HIGH, "foreign")
    assert due(client) == [b"a"]
    assert items(client, NORMAL) == []


def test_no_step_takes_many_at_once(client):
    job_ids = [f"job-{number}" for number in range(DUE_AT_ONCE + 1)]
    submit_jobs(client, *job_ids)
    client.zadd(KEYS.deadlines("tiny"), dict.fromkeys(job_ids, 1))
    assert len(due(client)) == DUE_AT_ONCE
    assert len(due(client)) == 1


# -- read


def test_a_job_is_read_by_its_size_first(client):
    client.hset("rq:job:a", mapping={"data": "x" * 100, "exc_info": "x" * 5000})
    assert read_job("a", max_bytes=100).run(client) == (100, {b"data": b"x" * 100})
    assert read_job("a", max_bytes=99).run(client) == (100, {})
    assert read_job("none", max_bytes=99).run(client) is None
    client.set("rq:job:foreign", "x")
    assert read_job("foreign", max_bytes=99).run(client) is None


# -- the start of a run


def start(client, worker="w1"):
    run = Run("run", {"worker_name": worker}, {"status": "started", "worker_name": worker}, 600, 4e9)
    return begin(KEYS, worker, "a", KEYS.queue("tiny"), run).run(client)


RUN_KEYS = ("rq:execution:a:run", "rq:executions:a", "rq:wip:generate.tiny", "rq:worker:w1:executions")


def test_a_job_that_is_ours_is_shown_as_running_for_ever(client):
    taken(client, "a")
    assert start(client) is True
    assert (field(client, "a", "status"), field(client, "a", "worker_name")) == ("started", "w1")
    assert client.ttl("rq:job:a") == -1
    assert client.zscore("rq:wip:generate.tiny", "a:run") == float("inf")
    assert client.smembers("rq:worker:w1:executions") == {b"a:run"}
    assert client.zrange("rq:executions:a", 0, -1) == [b"run"]
    assert client.hget("rq:worker:w1", "state") == b"busy"
    for key in ("rq:execution:a:run", "rq:executions:a", "rq:worker:w1:executions"):
        assert 590 < client.ttl(key) <= 600


@pytest.mark.parametrize(
    "fields",
    [{"status": "queued"}, {"status": "started", "worker_name": "w2"}],
    ids=["back in its queue", "with another"],
)
def test_a_job_that_was_moved_on_is_not_shown_as_running(client, fields):
    running(client, "a")
    client.delete(MINE)
    client.hset("rq:job:a", mapping=fields)
    before = state(client)
    assert start(client) is False
    assert state(client) == before


@pytest.mark.parametrize("foreign", ["rq:job:a", MINE])
def test_where_nobody_can_tell_whose_the_job_is_it_is_not_shown_as_running(client, foreign):
    client.set(foreign, "foreign")
    before = state(client)
    assert start(client) is False
    assert state(client) == before


def test_a_redis_that_came_back_empty_shows_the_run_and_makes_no_job(client):
    assert start(client) is True
    assert not client.exists("rq:job:a")


@pytest.mark.parametrize("foreign", RUN_KEYS)
def test_a_foreign_key_in_place_of_one_of_rqs_keeps_no_job_from_its_start(client, foreign):
    taken(client, "a")
    client.set(foreign, "foreign")
    assert start(client) is True
    assert field(client, "a", "status") == "started"
    assert client.exists(*RUN_KEYS) == len(RUN_KEYS)


# -- letting go


def back(client, job_id="a", *, engine_died=False):
    return put_back(KEYS, "w1", job_id, KEYS.queue("tiny"), engine_died=engine_died).run(client)


def test_a_job_is_put_back_to_the_front(client):
    running(client, "a")
    submit_jobs(client, "next")
    client.zadd(f"rq:failed:{KEYS.queue('tiny')}", {"a": 2e9})
    assert back(client) is True
    assert items(client, NORMAL) == ["a", "next"]
    assert (field(client, "a", "status"), field(client, "a", "worker_name")) == ("queued", "")
    assert field(client, "a", "taken_by") == ""
    assert items(client, MINE) == []
    assert client.zcard(f"rq:failed:{KEYS.queue('tiny')}") == 0
    assert field(client, "a", "deaths") is None


@pytest.fixture
def parked(client):
    """A job that is, on w1."""
    job_id = running(client, "a")
    park(KEYS, "w1", job_id, is_parked=True).run(client)
    return job_id


def test_a_job_is_marked_as_parked_and_as_running_again(client, parked):
    assert field(client, parked, "parked_by") == "w1"
    park(KEYS, "w1", parked, is_parked=False).run(client)
    assert field(client, parked, "parked_by") is None
    park(KEYS, "w1", parked, is_parked=False).run(client)
    assert field(client, parked, "status") == "started"


def test_a_job_that_was_moved_on_is_not_marked(client):
    job_id = running(client, "a")
    before = state(client)
    park(KEYS, "w2", job_id, is_parked=True).run(client)
    assert state(client) == before


@pytest.mark.parametrize("put", [lambda client: None, lambda client: client.set("rq:job:a", "foreign")])
def test_a_job_without_a_hash_is_not_marked(client, put):
    client.rpush(MINE, "a")
    put(client)
    before = state(client)
    park(KEYS, "w1", "a", is_parked=True).run(client)
    assert state(client) == before


def test_a_parked_job_is_put_back_without_its_mark(client, parked):
    """The next worker to park it would else be taken for this one."""
    assert put_back(KEYS, "w1", parked, "generate.tiny", engine_died=False).run(client)
    assert items(client, NORMAL) == [parked]
    assert field(client, parked, "parked_by") is None


@pytest.mark.parametrize(("deaths", "more"), [(None, "1"), ("1", "2"), ("many", "1")])
def test_the_death_of_an_engine_is_counted_and_is_no_workers(client, deaths, more):
    running(client, "a")
    if deaths:
        client.hset("rq:job:a", "deaths", deaths)
    back(client, engine_died=True)
    come_back("w1", "a").run(client)
    assert field(client, "a", "deaths") == more


def test_a_job_that_was_moved_on_is_not_put_back(client):
    running(client, "a")
    client.lrem(MINE, 1, "a")
    before = state(client)
    assert back(client, engine_died=True) is False
    assert state(client) == before


@pytest.mark.parametrize("foreign", [True, False])
def test_a_job_without_a_hash_is_put_back_for_whoever_refuses_it(client, foreign):
    taken(client, "a")
    client.delete("rq:job:a")
    if foreign:
        client.set("rq:job:a", "foreign")
    assert back(client, engine_died=True) is True
    assert items(client, NORMAL) == ["a"]
    assert client.get("rq:job:a") == (b"foreign" if foreign else None)


def test_no_job_is_lost_to_what_stands_in_place_of_a_registry_or_of_its_queue(client):
    running(client, "a")
    client.set(f"rq:failed:{KEYS.queue('tiny')}", "foreign")
    client.set(NORMAL, "foreign")
    with pytest.raises(redis.ResponseError):
        back(client)
    assert items(client, MINE) == ["a"]
    client.delete(NORMAL)
    assert back(client) is True
    assert (items(client, MINE), items(client, NORMAL)) == ([], ["a"])


def test_a_job_is_put_down(client):
    taken(client, "a")
    put_down(KEYS, "w1", "a").run(client)
    assert items(client, MINE) == []
    assert field(client, "a", "taken_by") is None


def test_a_job_that_another_has_is_put_down_and_stays_the_others(client):
    taken(client, "a")
    client.hset("rq:job:a", "taken_by", "w2")
    put_down(KEYS, "w1", "a").run(client)
    assert items(client, MINE) == []
    assert field(client, "a", "taken_by") == "w2"


def test_a_worker_that_comes_back_takes_its_own_death_back_once(client):
    client.hset("rq:job:a", mapping={"deaths": 2, "lost_by": "w1"})
    come_back("w2", "a").run(client)
    assert field(client, "a", "deaths") == "2"
    for _ in range(2):
        come_back("w1", "a").run(client)
    assert field(client, "a", "deaths") == "1"
    come_back("w1", "none").run(client)
    assert not client.exists("rq:job:none")


def test_no_deaths_do_not_become_fewer(client):
    client.hset("rq:job:a", mapping={"deaths": 0, "lost_by": "w1"})
    come_back("w1", "a").run(client)
    assert field(client, "a", "deaths") == "0"


def test_progress_is_shown_while_the_job_is_ours_and_there(client):
    running(client, "a")
    save_meta(KEYS, "w1", "a", b"{}").run(client)
    assert field(client, "a", "meta") == "{}"
    save_meta(KEYS, "w2", "a", b"theirs").run(client)
    assert field(client, "a", "meta") == "{}"
    client.delete("rq:job:a")
    save_meta(KEYS, "w1", "a", b"{}").run(client)
    assert not client.exists("rq:job:a")
