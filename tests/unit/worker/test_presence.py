"""Who is known to be dead, and who never is: beats on Redis, connections as the server would list them."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fakeredis import FakeAsyncRedis, FakeServer

from producer.ledger.sweep import Beat, Member, RingEntry
from worker.lives import Lives
from worker.neighbours import (
    ASKED_AT_MOST,
    AT_ONCE_S,
    CONFIRM_S,
    LOOK_AGAIN_S,
    LOOK_INTERVAL_S,
    STALLED_S,
    TRUSTED_AGE_S,
    Dead,
)
from worker.presence import WHOLE_S, Presence, Watch

from .jobs import KEYS

TTL_S = 6.0
INTERVAL_S = 2.0
BEAT_REPLY = 9


class Host:
    """A server, as far as fakeredis is none: its run, and who is connected. With it, the time."""

    def __init__(self) -> None:
        self.run_id = "run-1"
        self.connected: set[int] = set()
        self.refusal: redis.ResponseError | None = None
        self.asked_for: list[int] = []
        self.now = 1000.0
        self.ahead_s = 0.0
        """The server's clock, of ours."""
        self.lives: dict[str, Lives] = {}


class Link(FakeAsyncRedis):
    """The one connection of a worker."""

    def at(self, host: Host, client_id: int) -> "Link":
        """Connect it."""
        self.host, self.number = host, client_id
        host.connected.add(client_id)
        return self

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """fakeredis' clock is another one than ours. Of a beat's reply the first is the time."""
        reply = await super().execute_command(*args, **options)
        if args[0] in {"EVAL", "EVALSHA"} and isinstance(reply, list) and len(reply) == BEAT_REPLY:
            reply[0] = round(1000 * (self.host.now + self.host.ahead_s))
        return reply

    async def client_id(self, **_: object) -> int:
        if self.host.refusal:
            raise self.host.refusal
        return self.number

    async def info(self, *_: object, **__: object) -> dict[str, str]:
        return {"run_id": self.host.run_id}

    async def client_list(self, *_: object, client_id: list[str], **__: object) -> list[dict[str, str]]:
        if self.host.refusal:
            raise self.host.refusal
        self.host.asked_for = [int(each) for each in client_id]
        return [{"id": each} for each in client_id if int(each) in self.host.connected]


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def join(fake_server: FakeServer, host: Host, tmp_path: Path) -> Iterator[Callable[..., Presence]]:
    """Workers of one model on one host, each with a connection."""
    numbers = iter(range(1, 100))

    def join(name: str, *, beat_interval_s: float = INTERVAL_S) -> Presence:
        link = Link(server=fake_server).at(host, next(numbers))
        record = {"birth": "2026-01-01T00:00:00Z"}
        options = {"ttl_s": TTL_S, "keep_s": 1000, "beat_interval_s": beat_interval_s}
        lives = host.lives[name] = Lives(tmp_path)
        lives.begin(name)
        return Presence(link, KEYS, "tiny", name, lambda: record, lives=lives, clock=lambda: host.now, **options)

    yield join
    for lives in host.lives.values():
        lives.end()


async def ring_of(join, names: str) -> dict[str, Presence]:
    """Workers that know each other, and whose connections are as old as they have to be."""
    members = {name: join(name) for name in names}
    for _ in range(2):
        for member in members.values():
            await member.beat()
    return members


def kill(host: Host, name: str) -> None:
    """Its process has ended, and the kernel has taken its lock back. The file stays."""
    descriptor = host.lives.pop(name)._lock
    os.close(descriptor)


def break_link(host: Host, presence: Presence) -> None:
    """Its process was killed, and the kernel closed the socket."""
    host.connected.discard(presence._client.number)


async def found(host: Host, presence: Presence, *, after_s: float = CONFIRM_S) -> list[str]:
    """Those whom it finds dead in two looks."""
    first = await presence.look()
    assert first == []
    host.now += after_s
    return [dead.member.worker for dead in await presence.look()]


# -- connections


async def test_a_worker_whose_connection_is_gone_is_dead_within_a_second_or_so(join, host):
    ring = await ring_of(join, "abc")
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    assert await ring["a"].look() == []
    host.now += CONFIRM_S - 0.01
    assert await ring["a"].look() == []
    host.now += 0.01
    assert await ring["a"].look() == [Dead(Member("b", "tiny"), "gone", RingEntry("b", "run-1", 2))]


async def test_while_somebody_is_missed_the_looks_are_close_and_meet_the_moment_of_the_verdict(join, host):
    ring = await ring_of(join, "abcd")
    watcher = ring["a"]
    assert watcher.next_look_s == LOOK_INTERVAL_S
    break_link(host, ring["b"])
    await watcher.look()
    assert watcher.next_look_s == LOOK_AGAIN_S, "the verdict waits for our own connection to be old enough"
    host.now += TRUSTED_AGE_S - 0.1
    await watcher.look()
    assert watcher.next_look_s == pytest.approx(0.1)
    host.now += 0.1
    assert [dead.member.worker for dead in await watcher.look()] == ["b"]
    assert watcher.next_look_s == LOOK_INTERVAL_S


async def test_those_who_were_cut_off_make_nobody_look_more_often(join, host):
    ring = await ring_of(join, "abcd")
    host.now += TRUSTED_AGE_S
    for name in "bcd":
        break_link(host, ring[name])
    assert await found(host, ring["a"]) == []
    assert ring["a"].next_look_s == LOOK_INTERVAL_S


async def test_a_worker_that_is_alone_now_misses_nobody(join, host):
    ring = await ring_of(join, "ab")
    await ring["a"].look()
    break_link(host, ring["b"])
    await ring["a"].look()
    await ring["b"].leave()
    await ring["a"].beat()
    await ring["a"].look()
    assert ring["a"].next_look_s == LOOK_INTERVAL_S


async def test_the_dead_are_found_once(join, host):
    ring = await ring_of(join, "abc")
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    assert await found(host, ring["a"]) == ["b"]
    assert await found(host, ring["a"]) == []


async def test_a_server_that_stood_still_begins_the_count_anew(join, host, monkeypatch):
    """Whoever was cut off waits behind the same standstill to come back."""
    ring = await ring_of(join, "abc")
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    link = ring["a"]._client
    client_list = link.client_list
    await ring["a"].look()

    async def slowly(**options: object) -> list[dict[str, str]]:
        host.now += STALLED_S + CONFIRM_S
        return await client_list(**options)

    with monkeypatch.context() as patch:
        patch.setattr(link, "client_list", slowly)
        assert await ring["a"].look() == []
    assert await found(host, ring["a"]) == ["b"]


async def test_of_a_large_fleet_some_are_asked_whether_it_was_the_network(join, host):
    watcher = join("a")
    numbers = range(1000, 1000 + 3 * ASKED_AT_MOST)
    for number in numbers:
        await watcher._client.zadd(KEYS.ring("tiny"), {f"w{number} run-1 {number}": 0})
    host.connected |= set(numbers)
    await watcher.beat()
    await watcher.look()
    host.now += TRUSTED_AGE_S
    host.connected.discard(1000)
    assert await found(host, watcher) == ["w1000"]
    assert len(host.asked_for) == ASKED_AT_MOST + 1
    host.connected -= set(numbers)
    await watcher.beat()
    assert await found(host, watcher) == [], "they are missed together: it was the network"


@pytest.mark.parametrize("command", ["client_id", "client_list"])
async def test_a_server_that_is_busy_has_refused_nothing(join, host, monkeypatch, command, caplog):
    ring = await ring_of(join, "ab")
    busy = redis.ResponseError("BUSY Redis is busy running a script")

    async def refuse(**_: object) -> None:
        raise busy

    with monkeypatch.context() as patch:
        patch.setattr(ring["a"]._client, command, refuse)
        ring["a"].connected()
        rounds = Watch(ring["a"], beat_interval_s=1000, on_beat=asyncio.Queue().put, on_dead=asyncio.Queue().put)
        with pytest.raises(redis.ResponseError, match="BUSY"):
            await rounds.step()
    assert "noticed by their beats" not in caplog.text
    await ring["a"].beat()
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    assert await found(host, ring["a"]) == ["b"]


async def test_it_is_found_by_those_before_it_in_the_ring_and_by_no_other(join, host):
    ring = await ring_of(join, "abcd")
    host.now += TRUSTED_AGE_S
    break_link(host, ring["d"])
    finders = []
    for name in "abc":
        await ring[name].look()
    host.now += CONFIRM_S
    for name in "abc":
        finders += [name for _ in await ring[name].look()]
    assert finders == ["b", "c"]


async def test_what_a_look_costs_does_not_grow_with_the_number_of_workers(join, host):
    ring = await ring_of(join, "abcdefghij")
    await ring["a"].look()
    assert host.asked_for == [1, 2, 3]


async def test_connections_are_asked_for_where_one_does_not_hear_commands_and_before_anything_is_known(join, host):
    """A list of connections costs the server far more than a number of listeners."""
    ring = await ring_of(join, "abcd")

    async def asked_for() -> list[int]:
        host.asked_for = []
        assert await ring["a"].look() == []
        return host.asked_for

    async with ring["b"]._client.pubsub() as b, ring["c"]._client.pubsub() as c:
        await b.subscribe("rq:pubsub:b")
        await c.subscribe("rq:pubsub:c")
        assert await asked_for() == [1, 2, 3], "is our own listed at all?"
        assert await asked_for() == []
        await c.unsubscribe()
        assert await asked_for() == [1, 3]
        await c.subscribe("rq:pubsub:c")
        ring["a"].connected()
        await ring["a"].beat()
        assert await asked_for() == [1, 2, 3], "is the new one listed?"


async def test_one_who_hears_commands_lives_and_is_suspected_no_more(join, host):
    ring = await ring_of(join, "ab")
    await ring["a"].look()
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    await ring["a"].look()
    async with ring["b"]._client.pubsub() as b:
        await b.subscribe("rq:pubsub:b")
        host.now += CONFIRM_S
        assert await ring["a"].look() == []
        assert ring["a"].next_look_s == LOOK_INTERVAL_S


async def test_one_who_may_not_ask_for_listeners_asks_for_connections(join, host, monkeypatch):
    ring = await ring_of(join, "ab")

    asked = []

    async def refuse(*channels: object) -> None:
        asked.append(channels)
        raise redis.exceptions.NoPermissionError("pubsub|numsub")

    monkeypatch.setattr(ring["a"]._client, "pubsub_numsub", refuse)
    for _ in range(3):
        await ring["a"].look()
    assert len(asked) == 1, "once a connection"
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    assert await found(host, ring["a"]) == ["b"]


async def test_a_worker_that_came_back_with_another_connection_lives(join, host):
    ring = await ring_of(join, "ab")
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    assert await ring["a"].look() == []
    ring["b"]._client.at(host, 99)
    ring["b"].connected()
    assert ring["b"].needs_beat
    await ring["b"].beat()
    assert not ring["b"].needs_beat
    host.now += CONFIRM_S
    await ring["a"].beat()
    assert await ring["a"].look() == []
    assert ring["a"].next_look_s == LOOK_INTERVAL_S


@pytest.mark.parametrize(("workers", "interval_s"), [(50, LOOK_INTERVAL_S), (200, 2.0)])
async def test_the_looks_of_a_whole_fleet_are_bounded(join, workers, interval_s):
    watcher = join("a")
    for number in range(workers - 1):
        await watcher._client.zadd(KEYS.ring("tiny"), {f"w{number} run-1 {number + 1000}": 0})
    await watcher.beat()
    assert watcher.next_look_s == interval_s


@pytest.mark.parametrize(("apart_s", "dead"), [(AT_ONCE_S, []), (AT_ONCE_S + 0.01, ["b", "c"])])
async def test_those_who_vanish_one_after_the_other_are_dead(join, host, apart_s, dead):
    """Together they are all of the others. The network takes them at once; since when d is gone, a cannot know."""
    ring = await ring_of(join, "abcd")
    host.now += TRUSTED_AGE_S
    found = []
    break_link(host, ring["d"])
    for name in "bc":
        break_link(host, ring[name])
        found += await ring["a"].look()
        host.now += apart_s
    host.now += CONFIRM_S
    found += await ring["a"].look()
    assert sorted(each.member.worker for each in found) == dead


@pytest.mark.parametrize(
    ("names", "gone", "dead"), [("abc", "bc", "bc"), ("abcd", "bc", "bc"), ("abcd", "bcd", "")]
)
async def test_many_that_are_gone_at_once_were_cut_off_by_the_network_and_two_are_not_many(
    join, host, names, gone, dead
):
    ring = await ring_of(join, names)
    host.now += TRUSTED_AGE_S
    for name in gone:
        break_link(host, ring[name])
    assert await found(host, ring["a"]) == list(dead)


@pytest.mark.parametrize(("names", "gone"), [("ab", "b"), ("abc", "b"), ("abcde", "bc"), ("abcdefg", "bcd")])
async def test_one_that_is_gone_is_dead_and_so_are_some_of_many(join, host, names, gone):
    """As far as a sees: it watches the two after it. Half of the others are some."""
    ring = await ring_of(join, names)
    host.now += TRUSTED_AGE_S
    for name in gone:
        break_link(host, ring[name])
    assert await found(host, ring["a"]) == list(gone[:2])


async def test_with_a_new_connection_nobody_is_judged(join, host):
    """What broke ours may have broken theirs, and they are not back yet."""
    ring = await ring_of(join, "ab")
    break_link(host, ring["b"])
    assert await found(host, ring["a"]) == []
    host.now += TRUSTED_AGE_S
    ring["a"].connected()
    assert await ring["a"].look() == []
    await ring["a"].beat()
    assert await found(host, ring["a"]) == []
    host.now += TRUSTED_AGE_S
    assert [dead.member.worker for dead in await ring["a"].look()] == ["b"]


async def test_workers_on_another_run_of_the_server_are_not_judged(join, host):
    """Ids of clients begin anew with each start, and on each node."""
    ring = await ring_of(join, "ab")
    host.run_id = "run-2"
    ring["a"].connected()
    await ring["a"].beat()
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    assert await found(host, ring["a"]) == []


@pytest.mark.parametrize("from_the_start", [True, False])
async def test_where_the_command_is_refused_beats_decide_and_it_is_said_once(join, host, caplog, from_the_start):
    refusal = redis.exceptions.NoPermissionError("this user has no permissions to run the 'client|list' command")
    host.refusal = refusal if from_the_start else None
    ring = await ring_of(join, "ab")
    host.refusal = refusal
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    with caplog.at_level(logging.WARNING):
        assert await found(host, ring["a"]) == []
        assert await found(host, ring["a"]) == []
    said = [record for record in caplog.records if "noticed by their beats, after 6 s" in record.message]
    assert len(said) == (2 if from_the_start else 1), "once by each worker that has tried"
    assert not ring["a"].needs_beat


async def test_behind_a_proxy_beats_decide(join, host, caplog):
    ring = await ring_of(join, "ab")
    host.now += TRUSTED_AGE_S
    host.connected.clear()
    assert await found(host, ring["a"]) == []
    assert "a proxy stands in between" in caplog.text


async def test_a_connection_that_breaks_while_it_is_made_is_no_connection(join, host, monkeypatch):
    presence = join("a")

    async def info(*_: object) -> dict[str, str]:
        presence.connected()
        return {"run_id": "run-1"}

    monkeypatch.setattr(presence._client, "info", info)
    with pytest.raises(redis.ConnectionError):
        await presence.beat()
    assert presence.needs_beat


async def test_nobody_is_looked_for_before_the_first_beat(join):
    assert await join("a").look() == []


# -- the record


class Record:
    """A worker's, and what its beats have written of it."""

    def __init__(self, presence: Presence) -> None:
        self.fields = {"birth": "then", "last_heartbeat": "0", "state": "idle"}
        self.presence, self.client, self.key = presence, presence._client, "rq:worker:a"
        presence._record = lambda: self.fields

    async def written(self, **changed: str) -> set[str]:
        """By the next beat, some fields being other ones now. What stands there is no worker's."""
        self.fields = {**self.fields, **changed}
        foreign = dict.fromkeys(self.fields, "foreign")
        await self.client.hset(self.key, mapping=foreign)
        await self.presence.beat()
        stands = await self.client.hgetall(self.key)
        return {name for name, value in foreign.items() if stands[name.encode()] != value.encode()}


async def test_a_beat_writes_what_has_changed_and_now_and_then_all(join, host):
    record = Record(join("a"))
    assert await record.written() == set(record.fields), "of the first one, all"
    assert await record.written(last_heartbeat="1") == {"last_heartbeat"}
    assert await record.written(last_heartbeat="2", state="busy") == {"last_heartbeat", "state"}
    assert await record.written() == set(record.fields), "a beat without a word is none"
    host.now += WHOLE_S
    assert await record.written(last_heartbeat="3") == set(record.fields), "somebody may have written there"
    record.presence.connected()
    assert await record.written(last_heartbeat="4") == set(record.fields), "on another connection, another server"


async def test_what_a_lost_beat_has_written_is_not_known_and_the_next_one_writes_all(join, fake_server):
    record = Record(join("a"))
    await record.written()
    fake_server.connected = False
    with pytest.raises(redis.ConnectionError):
        await record.presence.beat()
    fake_server.connected = True
    assert await record.written(last_heartbeat="1") == set(record.fields)


async def test_a_redis_that_has_forgotten_the_record_gets_all_of_it_at_once(join):
    record = Record(join("a"))
    await record.written()
    await record.client.flushall()
    record.fields["last_heartbeat"] = "1"
    await record.presence.beat()
    assert record.presence.needs_beat
    assert await record.client.smembers("rq:workers") == {b"rq:worker:a"}
    record.fields["last_heartbeat"] = "2"
    await record.presence.beat()
    assert not record.presence.needs_beat
    assert len(await record.client.hgetall(record.key)) == len(record.fields)


# -- processes of this host


async def test_a_worker_whose_process_has_ended_is_dead_whatever_its_connection_and_its_beats_say(join, host):
    ring = await ring_of(join, "abc")
    assert ring["a"].exited() == []
    kill(host, "b")
    assert ring["a"].exited() == [Dead(Member("b", "tiny"), "exited")]
    assert ring["a"].exited() == [], "it is told of once"
    await ring["a"].beat()
    assert ring["a"].exited() == [Dead(Member("b", "tiny"), "exited")], "and again where it is in the ring still"


async def test_after_an_outage_nobody_has_to_wait_until_beats_can_be_trusted(join, host):
    """Its place in the ring is of an earlier run of the server, and its beat is over."""
    ring = await ring_of(join, "abcd")
    kill(host, "d")
    await late(ring["d"])
    host.run_id = "run-2"
    ring["a"].connected()
    seen = await ring["a"].beat()
    assert "d" not in [entry.worker for entry in seen.after]
    assert not ring["a"].trusts_beats
    assert ring["a"].exited() == [Dead(Member("d", "tiny"), "exited")]


async def test_a_worker_that_is_only_late_or_only_cut_off_has_not_exited(join, host):
    ring = await ring_of(join, "ab")
    break_link(host, ring["b"])
    await late(ring["b"])
    await ring["a"].beat()
    assert ring["a"].exited() == []


async def test_of_a_worker_of_another_host_connections_and_beats_decide(join, host):
    ring = await ring_of(join, "ab")
    kill(host, "b")
    ring["a"]._lives = Lives(None)
    await ring["a"].beat()
    assert ring["a"].exited() == []
    host.now += TRUSTED_AGE_S
    break_link(host, ring["b"])
    assert await found(host, ring["a"]) == ["b"]


async def test_whoever_comes_after_the_dead_is_looked_at_with_a_beat_that_is_due_at_once(join, host):
    ring = await ring_of(join, "ab")
    assert not ring["a"].needs_beat
    ring["a"].beat_soon()
    assert ring["a"].needs_beat
    await ring["a"].beat()
    assert not ring["a"].needs_beat


# -- beats


async def overdue(presence: Presence) -> list[str]:
    return [dead.member.worker for dead in presence.overdue(await presence.beat())]


async def late(presence: Presence) -> None:
    """Its beat is over on Redis' clock."""
    await presence._client.zadd(KEYS.beats, {str(Member(presence._worker, "tiny")): 0})


async def test_beats_decide_after_one_ttl_in_which_our_own_went_through(join, host):
    ring = await ring_of(join, "ab")
    await late(ring["b"])
    waited_s = 0.0
    while waited_s < TTL_S:
        assert await overdue(ring["a"]) == []
        assert not ring["a"].trusts_beats
        host.now += INTERVAL_S
        waited_s += INTERVAL_S
    assert await overdue(ring["a"]) == ["b"]
    assert ring["a"].trusts_beats


async def test_after_a_break_nobody_is_judged_for_one_ttl(join, host):
    """Redis could not take the others' beats either."""
    ring = await ring_of(join, "ab")
    for _ in range(4):
        host.now += INTERVAL_S
        await ring["a"].beat()
    await late(ring["b"])
    host.now += TTL_S
    assert not ring["a"].trusts_beats, "not before the first beat after the break, either"
    for _ in range(3):
        assert await overdue(ring["a"]) == []
        host.now += INTERVAL_S
    assert await overdue(ring["a"]) == ["b"]


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
async def test_after_redis_clock_was_set_nobody_is_judged_for_one_ttl(join, host, jump_s):
    """All beats of before looked too old, of workers that were to beat within the second."""
    ring = await ring_of(join, "ab")
    for _ in range(4):
        host.now += INTERVAL_S
        await ring["a"].beat()
    await late(ring["b"])
    host.ahead_s += jump_s
    for _ in range(3):
        assert await overdue(ring["a"]) == []
        host.now += INTERVAL_S
    assert await overdue(ring["a"]) == ["b"]


async def test_a_worker_that_beats_seldom_judges_too(join, host):
    rare = join("a", beat_interval_s=5.0)
    await rare.beat()
    await late(join("b"))
    host.now += 5.0
    assert await overdue(rare) == []
    host.now += 5.0
    assert await overdue(rare) == ["b"]


async def test_nobody_judges_itself(join, host):
    presence = join("a")
    seen = await presence.beat()
    host.now += INTERVAL_S
    for _ in range(3):
        await presence.beat()
        host.now += INTERVAL_S
    ourselves = Beat(seen.now_ms, True, 1, (), (), (Member("a", "tiny"), Member("b", "other")), False, False)
    assert presence.overdue(ourselves) == [Dead(Member("b", "other"), "overdue")]


async def test_a_beat_whose_answer_was_lost_is_no_death_after_another_connection(join, host, monkeypatch):
    ring = await ring_of(join, "ab")
    host.now += TRUSTED_AGE_S
    link = ring["b"]._client

    async def lose_the_answer(*args: object) -> None:
        await type(link).evalsha(link, *args)
        raise redis.ConnectionError("lost")

    def connect_anew(number: int) -> None:
        host.connected.discard(link.number)
        link.at(host, number)
        ring["b"].connected()

    connect_anew(50)
    with monkeypatch.context() as patch:
        patch.setattr(link, "evalsha", lose_the_answer)
        with pytest.raises(redis.ConnectionError):
            await ring["b"].beat()
    connect_anew(51)
    for name in "ba":
        await ring[name].beat()
    assert await found(host, ring["a"]) == []


async def test_of_two_beats_at_once_none_names_a_connection_of_before(join, host, monkeypatch):
    """The service beats beside the watch when its engine is ready."""
    presence = join("a")
    link = presence._client
    info, calls = type(link).info, []

    async def break_in_between(*args: object) -> dict[str, str]:
        calls.append(args)
        if len(calls) == 1:
            link.at(host, 77)
            presence.connected()
            for _ in range(1000):  # time for the other beat to overtake this one
                await asyncio.sleep(0)
        return await info(link, *args)

    monkeypatch.setattr(link, "info", break_in_between)
    await asyncio.gather(presence.beat(), presence.beat(), return_exceptions=True)
    assert not presence.needs_beat
    assert await link.zrange(KEYS.ring("tiny"), 0, -1) == [b"a run-1 77"]


async def test_a_worker_that_leaves_is_watched_by_nobody(join):
    ring = await ring_of(join, "ab")
    await ring["b"].leave()
    assert (await ring["a"].beat()).after == ()
    await join("never seen").leave()


# -- the watch


async def for_ever(rounds: Watch) -> None:
    """As its side task does."""
    while True:
        await rounds.step()


async def test_a_watch_beats_at_once_and_tells_of_the_dead(join, host):
    ring = await ring_of(join, "ab")
    host.now += TRUSTED_AGE_S
    await ring["a"].beat()
    break_link(host, ring["b"])
    assert await ring["a"].look() == []
    host.now += CONFIRM_S
    beats: list[Beat] = []
    dead: asyncio.Queue[Dead] = asyncio.Queue()

    async def on_beat(seen: Beat) -> None:
        beats.append(seen)

    rounds = Watch(ring["a"], beat_interval_s=1000, on_beat=on_beat, on_dead=dead.put)
    task = asyncio.create_task(for_ever(rounds))
    async with asyncio.timeout(30):
        found_dead = await dead.get()
    task.cancel()
    assert (found_dead.member.worker, found_dead.sign) == ("b", "gone")
    assert len(beats) == 1


async def test_a_watch_beats_again_at_once_when_another_connection_stands_for_the_worker(join, host):
    presence = join("a")
    beats: asyncio.Queue[Beat] = asyncio.Queue()
    rounds = Watch(presence, beat_interval_s=1000, on_beat=beats.put, on_dead=beats.put)
    task = asyncio.create_task(for_ever(rounds))
    async with asyncio.timeout(30):
        await beats.get()
        presence._client.at(host, 77)
        presence.connected()
        await beats.get()
    task.cancel()
    assert await presence._client.zrange(KEYS.ring("tiny"), 0, -1) == [b"a run-1 77"]


async def test_a_round_fails_when_redis_does(join, fake_server):
    presence = join("a")
    fake_server.connected = False
    with pytest.raises(redis.ConnectionError):
        await Watch(presence, beat_interval_s=1000, on_beat=None, on_dead=None).step()
