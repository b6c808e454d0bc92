"""Files and batches of gateways. Time is turned by what stands on Redis, and never waited for."""

import pytest
import redis

from producer.ledger.batches import begin_batch, cancel_batch, lease_batch, mark_batch, member, run_of
from producer.ledger.files import Room, delete_file, write_file
from producer.ledger.wanting import note

from .steps import KEYS, submit_jobs

FILES, SIZES = KEYS.files("alice"), KEYS.file_sizes("alice")
FILE, PARTS = KEYS.file("alice", "file-1"), KEYS.file_parts("alice", "file-1")
BATCH = KEYS.batch("alice", "batch_1")


def write(client: redis.Redis, number: int, data: bytes, file_id: str = "file-1", **options) -> str:
    options = {"ttl_s": 100, "room": Room(), **options}
    return write_file(KEYS, "alice", file_id, number, data, **options).run(client)


def begin(client: redis.Redis, batch_id: str = "batch_1", **options) -> str:
    options = {"record": "{}", "ttl_s": 1000, "most": 9, "input_id": "file-1", "input_ttl_s": 500, **options}
    return begin_batch(KEYS, "alice", batch_id, **options).run(client)


def mark(client: redis.Redis, runner: str, lease_s: float = 10, was: str = "", **fields) -> str:
    return mark_batch(KEYS, "alice", "batch_1", runner, fields, lease_s=lease_s, was=was).run(client)


def sizes(client: redis.Redis) -> dict[bytes, bytes]:
    return client.hgetall(SIZES)


@pytest.fixture
def batch(client: redis.Redis) -> redis.Redis:
    """One is there, and nobody runs it."""
    write(client, 0, b"row", record="{}")
    assert begin(client) == "ok"
    return client


def test_a_file_is_there_once_it_is_whole(client):
    assert write(client, 0, b"one\n") == "ok"
    assert not client.exists(FILE)
    assert write(client, 1, b"two\n", record='{"bytes": 8}', ttl_s=1000) == "ok"
    assert client.hget(FILE, "record") == b'{"bytes": 8}'
    assert client.hgetall(PARTS) == {b"0": b"one\n", b"1": b"two\n"}
    assert sizes(client) == {b"file-1": b"8", b"": b"8"}
    assert all(990_000 < client.pttl(name) <= 1_000_000 for name in (FILES, SIZES, FILE, PARTS))


def test_a_part_that_is_sent_again_counts_once(client):
    for data in (b"one", b"one", b"other"):
        assert write(client, 0, data, room=Room(file_bytes=5, owner_bytes=5, files=1)) == "ok"
    assert sizes(client) == {b"file-1": b"5", b"": b"5"}


@pytest.mark.parametrize(
    ("room", "file_id", "number", "why"),
    [
        (Room(file_bytes=5), "file-1", 1, "file_too_large"),
        (Room(file_bytes=9, owner_bytes=5), "file-1", 1, "no_room"),
        (Room(owner_bytes=5), "file-2", 0, "no_room"),
        (Room(files=1), "file-2", 0, "too_many"),
        (Room(), "file-2", 1, "gone"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_and_changes_nothing(client, room, file_id, number, why):
    write(client, 0, b"one")
    assert write(client, number, b"two", file_id, room=room) == why
    assert sizes(client) == {b"file-1": b"3", b"": b"3"}
    assert client.zrange(FILES, 0, -1) == [b"file-1"]
    assert client.hgetall(PARTS) == {b"0": b"one"}


def test_a_file_that_is_not_gone_on_with_is_gone_in_a_while(client):
    write(client, 0, b"one", ttl_s=60)
    assert {name for name in client.keys("*") if not 0 < client.pttl(name) <= 60_000} == set()


def test_a_file_whose_time_is_over_counts_no_more(client):
    write(client, 0, b"one")
    write(client, 0, b"two!", "file-2")
    client.delete(PARTS)
    client.zadd(FILES, {"file-1": 1})
    assert write(client, 1, b"", "file-2") == "ok"
    assert sizes(client) == {b"file-2": b"4", b"": b"4"}
    assert client.zrange(FILES, 0, -1) == [b"file-2"]


def test_what_is_kept_for_longer_does_not_go_with_what_is_kept_for_less_long(client):
    write(client, 0, b"one", ttl_s=1000)
    write(client, 0, b"two", "file-2", ttl_s=10)
    assert client.pttl(FILES) > 900_000
    assert client.pttl(SIZES) > 900_000


def test_a_file_that_is_deleted_counts_no_more(client):
    write(client, 0, b"one", record="{}")
    write(client, 0, b"two!", "file-2")
    deleted = delete_file(KEYS, "alice", "file-1")
    assert deleted.run(client) is True
    assert deleted.run(client) is False
    assert sizes(client) == {b"file-2": b"4", b"": b"4"}
    assert client.zrange(FILES, 0, -1) == [b"file-2"]
    assert not client.exists(FILE, PARTS)


def test_a_batch_begins_once_and_keeps_its_input(client):
    assert begin(client) == "no_file"
    write(client, 0, b"row")
    assert begin(client) == "no_file"
    write(client, 1, b"", record="{}", ttl_s=100)
    assert begin(client) == "ok"
    assert client.pttl(PARTS) > 400_000
    assert client.pttl(FILE) > 400_000
    client.hset(BATCH, "status", "in_progress")
    assert begin(client) == "ok"
    assert client.hgetall(BATCH) == {b"record": b"{}", b"status": b"in_progress"}
    assert 990_000 < client.pttl(BATCH) <= 1_000_000
    assert begin(client, "batch_2", most=1) == "too_many"
    client.zadd(KEYS.batches("alice"), {"batch_1": 1})
    assert begin(client, "batch_2", most=1, input_ttl_s=1) == "ok"
    assert client.pttl(PARTS) > 400_000


def test_a_batch_is_run_by_one_and_by_the_next_once_its_lease_is_over(batch):
    def lease(runner: str) -> tuple[str, str] | None:
        return lease_batch(KEYS, runner, 10).run(batch)

    assert lease("first") == ("alice", "batch_1")
    assert lease("second") is None
    batch.zadd(KEYS.open_batches, {member("alice", "batch_1"): 1})
    assert lease("second") == ("alice", "batch_1")
    assert batch.hget(KEYS.batch_runners, member("alice", "batch_1")) == b"second"


def test_a_batch_goes_on_as_its_runner_says(batch):
    lease_batch(KEYS, "first", 10).run(batch)
    before = batch.zscore(KEYS.open_batches, "alice batch_1")
    assert mark(batch, "first", was="validating", status="in_progress", total=3, lease_s=60) == "in_progress"
    assert batch.zscore(KEYS.open_batches, "alice batch_1") > before + 40_000
    assert batch.hget(BATCH, "total") == b"3"
    assert mark(batch, "first", was="validating", status="failed") == "in_progress"
    assert mark(batch, "first", lease_s=0, was="validating", status="failed") == "in_progress"
    assert batch.zcard(KEYS.open_batches) == 1
    assert mark(batch, "first") == "in_progress"


def test_who_has_lost_a_batch_changes_nothing(batch):
    lease_batch(KEYS, "second", 10).run(batch)
    assert mark(batch, "first", status="failed", lease_s=0) == "lost"
    assert batch.hget(BATCH, "status") == b"validating"
    assert batch.zcard(KEYS.open_batches) == 1
    batch.delete(BATCH)
    assert mark(batch, "second", total=1) == "gone"
    assert not batch.exists(BATCH, KEYS.open_batches, KEYS.batch_runners)


def test_who_does_not_run_the_batch_any_more_writes_nothing(batch):
    lease_batch(KEYS, "second", 10).run(batch)
    first, second = (run_of("alice", "batch_1", runner) for runner in ("first", "second"))
    assert write(batch, 0, b"line", "file-2", run=second) == "ok"
    assert write(batch, 0, b"other", "file-2", run=first) == "lost"
    assert batch.hgetall(KEYS.file_parts("alice", "file-2")) == {b"0": b"line"}


def test_a_batch_that_is_over_is_nobodys(batch):
    lease_batch(KEYS, "first", 10).run(batch)
    assert mark(batch, "first", lease_s=0, status="failed") == "failed"
    assert not batch.exists(KEYS.open_batches, KEYS.batch_runners)
    assert batch.hget(BATCH, "status") == b"failed"
    assert mark(batch, "first", status="completed") == "lost"


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "completed"])
def test_a_batch_is_cancelled_while_it_is_open(batch, status):
    cancel = cancel_batch(KEYS, "alice", "batch_1", 17)
    batch.hset(BATCH, "status", status)
    assert cancel.run(batch) == status
    is_open = status in ("validating", "in_progress")
    assert batch.hget(BATCH, "status").decode() == ("cancelling" if is_open else status)
    assert batch.hget(BATCH, "cancelling_at") == (b"17" if is_open else None)
    batch.delete(BATCH)
    assert cancel.run(batch) is None
    assert not batch.exists(BATCH)


def test_what_is_noted_of_a_job_makes_none(client):
    noted = note("a", "gateway_call", "{}")
    assert noted.run(client) is False
    assert not client.exists("rq:job:a")
    submit_jobs(client, "a")
    assert noted.run(client) is True
    assert client.hget("rq:job:a", "gateway_call") == b"{}"
