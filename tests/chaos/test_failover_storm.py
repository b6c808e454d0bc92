"""The server changes under a storm of jobs: a managed fail-over behind one address, and a rotated password.

Nothing is lost. After the fail-over all go on by themselves; with a new password, once they are told of it.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from producer import AsyncProducer
from producer.broker.embedded import EmbeddedBroker
from tests.integration.conftest import joined
from tests.integration.test_address_failover import Pair
from tests.integration.test_worker import wait_for

from .checker import Expected, check
from .followers import Followers
from .workload import Workload

pytestmark = pytest.mark.long

JOBS = 100
WORKERS = 2
AT_ONCE = 8
BEFORE = 25
"""Jobs that have ended when the server changes."""
GO_ON_S = 10.0
WAIT_S = 300


@pytest.fixture(scope="module")
def workload(model_paths: Path) -> Workload:
    """Requests, and how each ends in peace."""
    return Workload(random.Random(7), model_paths, size=8)


@pytest.fixture
def requests(workload: Workload) -> dict[str, dict[str, Any]]:
    """The storm: every fourth job is long enough to be struck in its midst."""
    return {
        f"job-{number}": workload.long(number % 3) if number % 4 == 0 else workload.requests[number % 8]
        for number in range(JOBS)
    }


def check_nothing_is_lost(
    client: redis.Redis, followers: Followers, requests: dict[str, dict[str, Any]], workload: Workload
) -> None:
    """Every job ended, as it does in peace, and its follower saw it whole."""
    expected = []
    for job_id, request in requests.items():
        events = followers.jobs[job_id].events
        text, _ = joined(events)
        reference = workload.reference(request, request.get("seed", events[0].event.data.seed))
        assert text == reference.text
        expected.append(Expected(job_id, *reference))
    wait_for(lambda: not list(client.scan_iter("gen:{taken:*", count=1000)), "RQ's bookkeeping", WAIT_S)
    assert check(client, expected) == []


def hand_over(pair: Pair) -> None:
    """As managed services fail over: the old primary takes no writes until the replica has all of them."""
    pair.old.client_pause(60_000, all=False)
    offset = pair.old.info("replication")["master_repl_offset"]
    wait_for(lambda: pair.new.info("replication")["slave_repl_offset"] >= offset, "the replica", WAIT_S)
    pair.fail_over()
    pair.old.client_unpause()


async def test_a_managed_fail_over_loses_nothing_and_all_go_on(
    pair: Pair, start_worker, workload: Workload, requests, record_property
) -> None:
    workers = [start_worker(pair.forwarder.url) for _ in range(WORKERS)]
    for worker in workers:
        await asyncio.to_thread(worker.wait_until_ready)
    names = {worker.name for worker in workers}
    async with AsyncProducer(pair.forwarder.url) as producer:
        followers = Followers(producer)
        storm = asyncio.create_task(followers.run(requests, at_once=AT_ONCE))
        await until(lambda: followers.over >= BEFORE and followers.under_way, storm)
        await asyncio.to_thread(hand_over, pair)
        failed_over_at = time.monotonic()
        await storm

    stood_still_s = [
        s for each in followers.jobs.values() if (s := each.stood_still_s(failed_over_at)) is not None
    ]
    next_submission_s = min(at for at in followers.submitted_at if at > failed_over_at) - failed_over_at
    figures = {"struck": len(stood_still_s), "next submission": next_submission_s, "longest": max(stood_still_s)}
    record_property("figures", json.dumps(figures))
    print(figures)
    check_nothing_is_lost(pair.new, followers, requests, workload)
    assert [worker.process.poll() for worker in workers] == [None] * WORKERS
    since = {
        each.events[0].event.data.worker for each in followers.jobs.values() if each.seen_at[0] > failed_over_at
    }
    assert since == names, "each of the workers goes on"
    assert max(stood_still_s) <= GO_ON_S
    assert next_submission_s <= GO_ON_S


async def until(condition: Callable[[], object], storm: "asyncio.Task[None]") -> None:
    """Wait for something that comes during the storm."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            assert not storm.done(), storm.exception() or "the storm is over"
            await asyncio.sleep(0.01)


# -- another password


@pytest.fixture
def guarded() -> Iterator[EmbeddedBroker]:
    """A server with a password, `old`."""
    with EmbeddedBroker(append_only=True, options=("--requirepass", "old")) as broker:
        yield broker


def rotate(client: redis.Redis) -> None:
    """The password is `new`, and whoever came with the old one is put out."""
    client.config_set("requirepass", "new")
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)


async def test_a_rotated_password_loses_nothing_once_all_are_told(
    guarded: EmbeddedBroker, start_worker, workload: Workload, requests, record_property
) -> None:
    before, after = (guarded.url.replace("//", f"//:{password}@") for password in ("old", "new"))
    workers = [start_worker(before, GENQUEUE_BROKER_WAIT_S="2") for _ in range(WORKERS)]
    for worker in workers:
        await asyncio.to_thread(worker.wait_until_ready)
    with redis.Redis.from_url(before) as client:
        async with AsyncProducer(before) as told_before, AsyncProducer(after) as told_after:
            followers = Followers(told_before)
            storm = asyncio.create_task(followers.run(requests, at_once=AT_ONCE))
            await until(lambda: followers.over >= BEFORE and followers.under_way, storm)
            rotate(client)
            rotated_at = time.monotonic()
            assert [await asyncio.to_thread(worker.wait, 60) for worker in workers] == [3] * WORKERS
            all_had_ended_s = time.monotonic() - rotated_at
            followers.producer = told_after
            for _ in range(WORKERS):
                start_worker(after)
            restarted_at = time.monotonic()
            await storm
        taken_over_s = [
            s for each in followers.jobs.values() if (s := each.taken_over_s(restarted_at)) is not None
        ]
        assert taken_over_s, "no job was under way"
        figures = {
            "struck": len(taken_over_s),
            "workers ended after": all_had_ended_s,
            "longest from the restart": max(taken_over_s),
        }
        record_property("figures", json.dumps(figures))
        print(figures)
    with redis.Redis.from_url(after) as client:
        check_nothing_is_lost(client, followers, requests, workload)
