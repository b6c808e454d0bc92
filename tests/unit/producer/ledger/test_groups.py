"""Groups take turns: in which order jobs are taken, how many of a group run, and what is left of an idle group."""

import pytest
import redis

from producer.contract import Keys, Priority
from producer.contract.groups import encode_group
from producer.ledger.delete import delete
from producer.ledger.groups import GROUPS_LOOKED_AT, ahead, recount, tend
from producer.ledger.submit import Conflict, Full
from producer.ledger.sweep import Member, RingEntry, beat, claim, schedule, settled, sweep
from producer.ledger.take import put_back, put_down, take_due

from .steps import (
    KEYS,
    NORMAL,
    NOW,
    cancel_job,
    field,
    finish,
    items,
    redis_ms,
    state,
    submit_jobs,
    take_next,
)

TURNS, BELL, RUNNING, LATER = KEYS.turns("tiny"), KEYS.bell("tiny"), KEYS.running("tiny"), KEYS.later("tiny")
MINE = KEYS.taken("w1")


def queue(group: str | None, priority: Priority = "normal") -> str:
    return KEYS.queue("tiny", priority, group)


def line(group: str | None, priority: Priority = "normal") -> str:
    return f"rq:queue:{queue(group, priority)}"


def take_all(client: redis.Redis, most: int = 1000, *, group_max_running: int | None = None) -> list[str]:
    """Ids in the order in which they are taken; each is put down at once, unless their number is bounded."""
    order: list[str] = []
    while len(order) < most:
        known = tuple(items(client, MINE))
        found = take_next(client, known=known, group_max_running=group_max_running)
        if not hasattr(found, "job_id"):
            break
        order.append(found.job_id)
        if group_max_running is None:
            put_down(KEYS, "w1", found.job_id).run(client)
    return order


def turns(client: redis.Redis, key: str = TURNS) -> list[str]:
    return [group.decode() for group in client.zrange(key, 0, -1)]


# -- submitting


def test_a_job_of_a_group_stands_in_a_queue_of_rqs_of_its_own(client):
    submit_jobs(client, "a", group="小 x")
    assert encode_group("小 x") == "~e5~b0~8f~20x"
    name = "generate.tiny@~e5~b0~8f~20x"
    assert items(client, f"rq:queue:{name}") == ["a"]
    assert client.smembers("rq:queues") == {f"rq:queue:{name}".encode()}
    assert field(client, "a", "origin") == name
    assert client.zscore(KEYS.deadlines("tiny"), "a") == int(field(client, "a", "expires_at_ms"))
    assert turns(client) == ["~e5~b0~8f~20x"]
    assert client.llen(BELL) == 1


def test_a_job_without_a_group_leaves_no_word_of_groups(client):
    submit_jobs(client, "a")
    assert take_next(client).job_id == "a"
    assert not client.exists(TURNS, BELL, RUNNING)


def test_the_cap_is_of_the_group(client):
    submit_jobs(client, "1", "2", group="a")
    submit_jobs(client, "3", group="a", priority="high")
    submit_jobs(client, "4")
    assert submit_jobs(client, "5", group="a", max_queued=3) == Full(3)
    assert submit_jobs(client, "5", max_queued=1) == Full(1)
    assert submit_jobs(client, "5", group="b", max_queued=1) == [True]


@pytest.mark.parametrize("group", [None, "b"])
def test_the_same_request_is_the_same_job_whatever_the_group(client, group):
    submit_jobs(client, "x", group="a", priority="low")
    before = turns(client)
    assert submit_jobs(client, "x", group=group) == [False]
    assert submit_jobs(client, "x", group=group, digest="another") == Conflict("x")
    assert turns(client) == before, "what is not enqueued lines nobody up"


def test_a_group_of_another_model_is_another_job(client):
    submit_jobs(client, "x", group="a", model="tiny")
    assert submit_jobs(client, "x", group="a", model="tiny2") == Conflict("x")


# -- taking in turns


def test_ten_jobs_wait_for_at_most_one_each_of_ten_thousand(redis_client):
    """On a real server alone: to submit so many takes fakeredis a minute."""
    submit_jobs(redis_client, *(f"many-{number}" for number in range(10_000)), group="many")
    submit_jobs(redis_client, *(f"few-{number}" for number in range(10)), group="few")
    order = take_all(redis_client, 22)
    assert order[:20:2] == [f"many-{number}" for number in range(10)]
    assert order[1:20:2] == [f"few-{number}" for number in range(10)]
    assert order[20:] == ["many-10", "many-11"]


def test_jobs_without_a_group_are_one_more_group(client):
    submit_jobs(client, "-1", "-2", "-3")
    submit_jobs(client, "a1", "a2", "a3", group="a")
    submit_jobs(client, "b1", group="b")
    assert take_all(client) == ["a1", "b1", "-1", "a2", "-2", "a3", "-3"]
    assert not client.exists(TURNS, RUNNING)


def test_what_plain_rq_pushes_into_the_plain_queue_has_its_turn(client):
    submit_jobs(client, "a1", "a2", "a3", group="a")
    assert take_all(client, 1) == ["a1"]
    client.rpush(NORMAL, "plain-1", "plain-2")
    assert take_all(client) == ["a2", "plain-1", "a3", "plain-2"]


def test_a_group_that_comes_again_and_again_has_no_more_than_its_turn(client):
    """Whoever submits one job as soon as the one before has ended waits for one of each other group."""
    submit_jobs(client, "a1", "a2", "a3", "a4", group="a")
    order = []
    for number in range(3):
        submit_jobs(client, f"b{number}", group="b")
        order += take_all(client, 2)
    assert order == ["a1", "b0", "a2", "b1", "a3", "b2"]


def test_priorities_come_before_turns(client):
    submit_jobs(client, "low", group="a", priority="low")
    submit_jobs(client, "a1", "a2", group="a")
    submit_jobs(client, "b1", group="b")
    submit_jobs(client, "high", group="b", priority="high")
    submit_jobs(client, "plain high", priority="high")
    assert take_all(client) == ["high", "plain high", "a1", "b1", "a2", "low"]


def test_models_have_turns_of_their_own(client):
    submit_jobs(client, "1", group="a")
    submit_jobs(client, "2", group="a", model="other")
    assert take_all(client) == ["1"]
    assert turns(client, KEYS.turns("other")) == ["a"]


def test_a_group_whose_jobs_were_taken_out_is_passed_over(client):
    client.zadd(TURNS, {f"g{number}": number for number in range(250)})  # their queues are empty
    submit_jobs(client, "there", group="h")
    # A hundred at a time; the bell goes on meanwhile.
    assert [take_next(client), take_next(client)] == [None, None]
    assert client.exists(BELL)
    assert take_all(client) == ["there"]
    assert take_next(client) is None
    assert not client.exists(TURNS, BELL)


def test_what_stands_in_place_of_a_groups_queue_keeps_no_other_from_its_turn(client):
    submit_jobs(client, "a1", group="a")
    submit_jobs(client, "b1", group="b")
    client.set(line("a"), "foreign")
    assert take_all(client) == ["b1"]


def test_an_entry_that_is_none_costs_the_group_no_turn(client):
    submit_jobs(client, "a1", "a2", group="a")
    submit_jobs(client, "b1", group="b")
    client.hset("rq:job:a1", mapping={"status": "canceled"})
    client.set(KEYS.result("a1"), "{}")
    assert take_all(client) == ["a2", "b1"]


def test_turns_are_kept_apart_at_any_score(client):
    """A producer in another language may have given one that is none: nobody starves for it."""
    submit_jobs(client, "a1", "a2", "a3", group="a")
    submit_jobs(client, "b1", "b2", "b3", group="b")
    client.zadd(TURNS, {"a": 1e300, "b": float("inf")})
    assert take_all(client) == ["a1", "b1", "a2", "b2", "a3", "b3"]


def test_the_bell_rings_until_a_take_finds_that_no_group_waits(client):
    submit_jobs(client, "a1", "a2", group="a")
    submit_jobs(client, "b1", group="b")
    assert client.llen(BELL) == 1
    assert len(take_all(client, 3)) == 3
    assert client.llen(BELL) == 1
    assert take_next(client) is None
    assert not client.exists(BELL)


def test_a_job_of_a_group_whose_answer_was_lost_comes_again(client):
    submit_jobs(client, "a1", "a2", group="a")
    assert take_next(client).job_id == take_next(client).job_id == "a1"
    assert take_next(client, known=("a1",)).job_id == "a2"


def test_what_is_no_job_id_is_dropped_from_a_groups_queue_too(client):
    submit_jobs(client, "a1", group="a")
    client.lpush(line("a"), b"\xff")
    take_next(client)
    assert items(client, MINE) == []
    assert not client.exists(RUNNING)
    assert take_all(client) == ["a1"]


# -- how many run


def test_a_group_at_its_limit_is_passed_over_until_one_is_let_go(client):
    submit_jobs(client, "a1", "a2", "a3", group="a")
    submit_jobs(client, "b1", group="b")
    assert take_all(client, group_max_running=1) == ["a1", "b1"]
    assert turns(client) == [], "nobody comes upon it again"
    assert not client.exists(BELL)
    put_down(KEYS, "w1", "a1").run(client)
    assert client.exists(BELL)
    assert take_all(client, group_max_running=1) == ["a2"]


def test_the_limit_is_over_all_workers_and_priorities(client):
    submit_jobs(client, "a1", "a2", group="a")
    submit_jobs(client, "a3", group="a", priority="high")
    submit_jobs(client, "low", group="b", priority="low")
    assert take_next(client, "w1", group_max_running=2).job_id == "a3"
    assert take_next(client, "w2", group_max_running=2).job_id == "a1"
    assert take_next(client, "w3", group_max_running=2).job_id == "low"


def test_jobs_without_a_group_have_the_limit_too_and_whoever_asks_is_told(client):
    submit_jobs(client, "1", "2")
    submit_jobs(client, "a1", group="a")
    assert take_next(client, "w1", group_max_running=1).job_id == "a1"
    assert take_next(client, "w2", group_max_running=1).job_id == "1"
    assert take_next(client, "w3", group_max_running=1) == "limited"
    assert not client.exists(BELL)
    put_down(KEYS, "w2", "1").run(client)
    assert client.exists(BELL), "their queue may not be looked at, so that the bell says it"
    assert take_next(client, "w3", group_max_running=1).job_id == "2"
    put_down(KEYS, "w3", "2").run(client)
    assert take_next(client, "w3", group_max_running=1) is None
    assert not client.exists(BELL)


def test_the_limit_is_no_matter_where_nothing_waits(client):
    submit_jobs(client, "1")
    assert take_next(client, "w1", group_max_running=1).job_id == "1"
    assert take_next(client, "w2", group_max_running=1) is None


@pytest.mark.parametrize("gone", ["its list", "its hash"])
def test_a_job_that_no_worker_has_does_not_count(client, gone):
    """Who let go of it has died before it said so."""
    submit_jobs(client, "a1", "a2", group="a")
    take_next(client, "w1", group_max_running=1)
    client.delete(KEYS.taken("w1") if gone == "its list" else "rq:job:a1")
    assert take_next(client, "w2", group_max_running=1).job_id == "a2"
    assert client.zrange(RUNNING, 0, -1) == [b"a a2"]


def test_a_group_whose_name_begins_alike_is_another(client):
    submit_jobs(client, "1", group="a-b")
    submit_jobs(client, "2", group="a b")
    submit_jobs(client, "3", group="a")
    assert len(take_all(client, group_max_running=1)) == 3


def test_what_counts_as_running_is_recounted(client):
    submit_jobs(client, "a1", group="a")
    submit_jobs(client, "b1", group="b")
    take_next(client, "w1")
    take_next(client, "w2")
    client.delete(KEYS.taken("w1"))
    recount(KEYS, "tiny").run(client)
    assert client.zrange(RUNNING, 0, -1) == [b"b b1"]


def test_what_runs_is_not_kept_for_ever(client):
    submit_jobs(client, "a1", group="a")
    take_next(client)
    assert 0 < client.ttl(RUNNING) <= 1000


# -- letting go


def test_a_job_of_a_group_that_is_put_back_is_the_next(client):
    submit_jobs(client, "a1", "a2", group="a")
    submit_jobs(client, "b1", group="b")
    take_next(client)
    assert turns(client) == ["b", "a"]
    put_back(KEYS, "w1", "a1", queue("a"), engine_died=False).run(client)
    assert turns(client) == ["a", "b"]
    assert not client.exists(RUNNING)
    assert take_all(client) == ["a1", "b1", "a2"]


def test_a_job_without_a_group_that_is_put_back_is_the_next(client):
    submit_jobs(client, "1", "2")
    submit_jobs(client, "a1", "a2", group="a")
    assert [take_next(client, known=known).job_id for known in ((), ("a1",))] == ["a1", "1"]
    put_back(KEYS, "w1", "1", queue(None), engine_died=False).run(client)
    put_down(KEYS, "w1", "a1").run(client)
    assert take_all(client) == ["1", "a2", "2"]


def test_a_job_that_a_worker_has_is_put_back_without_a_word_of_groups(client):
    submit_jobs(client, "1")
    take_next(client)
    put_back(KEYS, "w1", "1", queue(None), engine_died=False).run(client)
    assert not client.exists(TURNS, BELL, RUNNING)


def test_a_job_of_a_group_that_is_put_back_alone_is_heard_of(client):
    submit_jobs(client, "a1", group="a")
    take_next(client)
    client.delete(BELL)
    put_back(KEYS, "w1", "a1", queue("a"), engine_died=False).run(client)
    assert turns(client) == ["a"]
    assert client.llen(BELL) == 1


def test_jobs_of_groups_of_the_dead_are_the_next(client):
    submit_jobs(client, "a1", "a2", group="a")
    submit_jobs(client, "b1", group="b")
    take_next(client)
    client.zadd(KEYS.beats, {"w1 tiny": 1})
    swept = sweep(KEYS, "w1", Member("w1", "tiny"), "overdue", now=NOW).run(client)
    assert swept.back == ("a1",)
    assert items(client, line("a")) == ["a1", "a2"]
    assert turns(client) == ["a", "b"]
    assert not client.exists(RUNNING)


def test_an_end_of_the_dead_that_rq_was_told_of_lets_the_next_of_its_group_run(client):
    submit_jobs(client, "a1", "a2", group="a")
    assert take_all(client, group_max_running=1) == ["a1"]
    assert take_next(client, "w2", group_max_running=1) is None
    finish(client, "a1")
    claim(KEYS, "w1", "w2", b"a1", ttl_s=100).run(client)
    settled(KEYS, "w2", b"a1").run(client)
    assert take_next(client, "w2", group_max_running=1).job_id == "a2"


def test_a_job_whose_hash_is_gone_is_let_go_by_its_queue(client):
    """RQ deletes it at once where nobody wants its result."""
    submit_jobs(client, "a1", "a2", group="a")
    assert take_all(client, group_max_running=1) == ["a1"]
    take_next(client, "w2", group_max_running=1)
    client.delete("rq:job:a1")
    put_down(KEYS, "w1", "a1", queue("a")).run(client)
    assert not client.exists(RUNNING)
    assert turns(client) == ["a"]


def test_a_job_that_rq_enqueues_again_in_its_end_is_lined_up(client):
    submit_jobs(client, "a1", group="a")
    take_next(client)
    client.rpush(line("a"), "a1")  # a retry, in the transaction of RQ's that registers the end
    client.lrem(MINE, 1, "a1")
    put_down(KEYS, "w1", "a1").run(client)
    assert turns(client) == ["a"]
    assert client.exists(BELL)


# -- jobs that are taken out of line


def test_a_group_whose_last_job_is_cancelled_waits_no_more(client):
    submit_jobs(client, "a1", "a2", group="a")
    assert cancel_job(client, "a1") == "cancelled"
    assert items(client, line("a")) == ["a2"]
    assert turns(client) == ["a"]
    assert cancel_job(client, "a2") == "cancelled"
    assert not client.exists(line("a"), TURNS)


def test_a_group_whose_last_job_is_deleted_waits_no_more(client):
    submit_jobs(client, "a1", "a2", group="a")
    for job_id in ("a1", "a2"):
        assert turns(client) == ["a"]
        assert delete(KEYS, job_id, ["tiny"], KEYS.queues("tiny", "a")).run(client) is True
    assert not client.exists(line("a"), TURNS)


def test_jobs_of_groups_whose_time_is_over_are_taken_to_be_ended(client):
    submit_jobs(client, "late", "in time", group="a", priority="low")
    submit_jobs(client, "late too")
    client.zadd(KEYS.deadlines("tiny"), {"late": 1, "late too": 2})
    assert take_due(KEYS, "w1", "tiny", list_ttl_s=10).run(client) == [b"late", b"late too"]
    assert items(client, line("a", "low")) == ["in time"]
    assert items(client, MINE) == ["late", "late too"]


def test_a_queue_of_somebody_elses_is_not_looked_through_for_what_is_late(client):
    client.hset("rq:job:a", mapping={"origin": "mails@a", "status": "queued"})
    client.rpush("rq:queue:mails@a", "a")
    client.zadd(KEYS.deadlines("tiny"), {"a": 1})
    assert take_due(KEYS, "w1", "tiny", list_ttl_s=10).run(client) == []
    assert items(client, "rq:queue:mails@a") == ["a"]


# -- what is scheduled


def put_off(client: redis.Redis, job_id: str, group: str, in_s: float) -> None:
    """As RQ schedules a retry of a job that was taken."""
    submit_jobs(client, job_id, group=group)
    assert take_next(client).job_id == job_id
    client.zadd(f"rq:scheduled:{queue(group)}", {job_id: redis_ms(client) / 1000 + in_s})
    put_down(KEYS, "w1", job_id).run(client)


def has_scheduled(client: redis.Redis) -> bool:
    return beat(KEYS, "tiny", RingEntry("w1"), {"birth": NOW}, ttl_s=60, keep_s=60).run(client).has_scheduled


def test_scheduled_jobs_of_groups_are_enqueued_once_their_time_has_come(client):
    put_off(client, "a1", "a", -1)
    put_off(client, "b1", "b", 500)
    assert has_scheduled(client)
    assert schedule(KEYS, "tiny", now=NOW).run(client).due == 1
    assert items(client, line("a")) == ["a1"]
    assert field(client, "a1", "status") == "queued"
    assert turns(client) == ["a"]
    assert client.zrange(LATER, 0, -1) == [queue("b").encode()]
    assert not has_scheduled(client)


def test_a_scheduled_job_that_was_taken_out_is_waited_for_no_more(client):
    put_off(client, "a1", "a", -1)
    client.delete(f"rq:scheduled:{queue('a')}")
    assert schedule(KEYS, "tiny", now=NOW).run(client).due == 0
    assert not client.exists(LATER, TURNS)


def test_so_many_scheduled_jobs_of_all_groups_are_enqueued_at_once(client):
    now_s = redis_ms(client) / 1000
    for group in ("a", "b", "c"):
        client.zadd(f"rq:scheduled:{queue(group)}", {f"{group}{number}": now_s - 1 for number in range(60)})
        client.zadd(LATER, {queue(group): now_s - 1})
    assert [schedule(KEYS, "tiny", now=NOW).run(client).due for _ in range(3)] == [100, 80, 0]
    assert sorted(client.llen(line(group)) for group in ("a", "b", "c")) == [60, 60, 60]


# -- what RQ does without a word, and what is left


def test_what_plain_rq_puts_into_a_groups_queue_is_lined_up_by_the_slow_pass(client):
    for group in ("a", "b"):
        client.sadd("rq:queues", line(group))
        client.rpush(line(group), f"{group}1")
    client.zadd(f"rq:scheduled:{queue('c')}", {"c1": 7})
    client.sadd("rq:queues", line("c"))
    assert take_next(client) is None
    assert tend(KEYS, [queue("a"), queue("b"), queue("c")]).run(client) == []
    assert client.exists(BELL)
    assert client.zscore(LATER, queue("c")) == 7
    assert take_all(client) == ["a1", "b1"]


def test_the_slow_pass_changes_nobodys_turn(client):
    submit_jobs(client, "a1", "a2", group="a")
    submit_jobs(client, "b1", group="b")
    take_next(client)
    before = state(client)
    tend(KEYS, [queue("a"), queue("b")]).run(client)
    assert state(client) == before


def test_of_an_idle_group_nothing_is_left_once_rq_keeps_no_job_of_it(client):
    now_s = redis_ms(client) / 1000
    client.sadd("rq:queues", line("a"))
    client.zadd(f"rq:finished:{queue('a')}", {"old": now_s - 5, "new": now_s + 500})
    client.zadd(f"rq:failed:{queue('a')}", {"old": now_s - 5})
    client.zadd(f"rq:canceled:{queue('a')}", {"gone": now_s + 500})
    client.zadd(f"rq:wip:{queue('a')}", {"gone:run": "inf"})
    tend(KEYS, [queue("a")]).run(client)
    assert client.zrange(f"rq:finished:{queue('a')}", 0, -1) == [b"new"]
    assert {key for key in client.keys("*") if b"generate" in key} == {f"rq:finished:{queue('a')}".encode()}
    assert client.sismember("rq:queues", line("a"))
    client.delete(f"rq:finished:{queue('a')}")
    tend(KEYS, [queue("a")]).run(client)
    assert client.keys() == []


def test_a_queue_that_seemed_idle_while_its_job_ran_is_one_of_rqs_again(client):
    submit_jobs(client, "a1", group="a")
    take_next(client)
    tend(KEYS, [queue("a")]).run(client)
    assert not client.exists("rq:queues")
    put_down(KEYS, "w1", "a1").run(client)
    assert client.smembers("rq:queues") == {line("a").encode()}


@pytest.mark.parametrize("state_of_rqs", ["deferred", "scheduled", "ready", "wip", "failed", "canceled"])
def test_a_group_of_which_rq_keeps_a_job_is_not_forgotten(client, state_of_rqs):
    client.hset("rq:job:a1", "status", "any")
    client.sadd("rq:queues", line("a"))
    client.zadd(f"rq:{state_of_rqs}:{queue('a')}", {"a1": "inf"})
    assert tend(KEYS, [queue("a")]).run(client) == ([queue("a")] if state_of_rqs == "ready" else [])
    assert client.sismember("rq:queues", line("a"))


def test_after_its_jobs_nothing_of_a_group_is_left_but_what_rq_keeps(client):
    submit_jobs(client, "a1", "a2", group="a")
    assert take_all(client, 2) == ["a1", "a2"]
    assert turns(client) == []
    assert take_next(client) is None
    left = {key.decode() for key in client.keys("*") if b"{" in key or b"@" in key}
    assert left == set()


# -- how long it takes


def test_what_is_ahead_is_told_by_turns(client):
    submit_jobs(client, *(f"a{number}" for number in range(10)), group="a")
    submit_jobs(client, "b0", "b1", "b2", group="b")
    submit_jobs(client, "c0", group="c")
    submit_jobs(client, "1", "2")
    submit_jobs(client, "h1", group="d", priority="high")
    submit_jobs(client, "h2", priority="high")

    def seen(group: str | None, place: int) -> int:
        return place + ahead(KEYS, "tiny", "normal", group, place).run(client)

    foreseen = {
        **{f"a{number}": seen("a", number) for number in range(10)},
        **{f"b{number}": seen("b", number) for number in range(3)},
        "c0": seen("c", 0),
        "1": seen(None, 0),
        "2": seen(None, 1),
    }
    order = take_all(client)
    assert order[:2] == ["h1", "h2"]
    assert foreseen == {job_id: order.index(job_id) for job_id in foreseen}


def test_what_is_ahead_of_jobs_without_a_group_alone_is_their_queues(client):
    submit_jobs(client, "h", priority="high")
    submit_jobs(client, "a", "b")
    submit_jobs(client, "l", priority="low")
    assert ahead(KEYS, "tiny", "normal", None, 1).run(client) == 1
    assert ahead(KEYS, "tiny", "low", None, 0).run(client) == 3


def test_of_many_groups_some_stand_for_all(client):
    groups = 3 * GROUPS_LOOKED_AT
    client.zadd(KEYS.turns("tiny", "high"), {f"g{number}": number for number in range(groups)})
    for number in range(groups):
        client.rpush(line(f"g{number}", "high"), number)
    assert ahead(KEYS, "tiny", "normal", None, 0).run(client) == groups


def test_deployments_with_other_prefixes_have_turns_of_their_own(client):
    other = Keys("a@b")
    submit_jobs(client, "x", group="g", keys=other)
    assert turns(client, other.turns("tiny")) == ["g"]
    assert not client.exists(TURNS)
