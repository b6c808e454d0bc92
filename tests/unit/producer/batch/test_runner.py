"""Rows on their way to a queue that has not room for all of them."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from producer.batch import runner as module
from producer.batch.answers import Answer
from producer.batch.outbox import Outbox
from producer.batch.rows import Row
from producer.batch.runner import Options, Runner
from producer.contract import GenerationRequest, GenerationResult, GenqueueError, QueueFull
from producer.contract.compatibility import PUBLISHED_FIELDS, check_understood

ROWS = 9


class Handle:
    """Of a job that ends soon."""

    def __init__(self, queue: "SmallQueue", job_id: str) -> None:
        self._queue, self._job_id = queue, job_id

    async def result(self, *, check: bool) -> GenerationResult:
        assert not check
        await asyncio.sleep(0.001)
        self._queue.waiting -= 1
        return GenerationResult(job_id=self._job_id, status="finished", model="tiny", finish_reason="stop")


class SmallQueue:
    """Room for so many jobs that wait, of which others may take some."""

    def __init__(self, room: int) -> None:
        self.room, self.waiting, self.refused = room, 0, 0
        self.job_ids: list[str] = []

    async def submit_many(self, requests: Sequence[object], *, job_ids: Sequence[str]) -> list[Handle]:
        if self.waiting + len(requests) > self.room:
            self.refused += 1
            raise QueueFull(f"{self.waiting} jobs wait for tiny; nothing was enqueued: submit again later")
        self.waiting += len(requests)
        self.job_ids += job_ids
        return [Handle(self, job_id) for job_id in job_ids]


def rows() -> list[Row]:
    return [Row(line, f"job-{line}", GenerationRequest(prompt="Hi")) for line in range(1, ROWS + 1)]


def runner_of(queue: object, write, said: list[str]) -> Runner:
    return Runner(queue, Options({}, in_flight=8), Outbox(write, in_order=True), said.append)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [1, 3, 8])
async def test_a_queue_with_less_room_than_rows_in_flight_takes_them_by_and_by(room: int) -> None:
    queue, said, written = SmallQueue(room), [], []

    def write(answer: Answer) -> None:
        written.append(answer.row.line)

    async with asyncio.timeout(60):
        await runner_of(queue, write, said).run(iter(rows()), may_begin_without=False)
    assert written == [*range(1, ROWS + 1)]
    assert sorted(queue.job_ids) == [f"job-{line}" for line in range(1, ROWS + 1)]
    assert [line.split(" ", 1)[1] for line in said] == ["jobs wait for tiny: waiting for that"] * (room < 8)


async def test_room_that_others_make_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.001)
    queue, written = SmallQueue(0), []
    running = asyncio.create_task(
        runner_of(queue, lambda answer: written.append(answer.row.line), []).run(
            iter(rows()), may_begin_without=False
        )
    )
    async with asyncio.timeout(60):
        while queue.refused < 5:
            await asyncio.sleep(0)
        queue.room = 2
        await running
    assert len(written) == ROWS


async def test_an_output_that_cannot_be_written_ends_it_also_where_the_queue_is_full() -> None:
    queue = SmallQueue(1)

    def write(_: Answer) -> None:
        queue.room = 0
        raise GenqueueError("no space")

    async with asyncio.timeout(60):
        with pytest.raises(GenqueueError, match="no space"):
            await runner_of(queue, write, []).run(iter(rows()), may_begin_without=False)
    assert queue.job_ids == ["job-1"]


async def test_no_row_fails_for_a_group_that_no_live_worker_knows_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an upgrade: the output would hold the failures for good."""
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.001)
    queue, said, written, understood = SmallQueue(8), [], [], [frozenset[str]()]
    take = queue.submit_many

    async def submit_many(requests: Sequence[object], *, job_ids: Sequence[str]) -> list[Handle]:
        check_understood([frozenset({"group"})], understood)
        return await take(requests, job_ids=job_ids)

    def say(line: str) -> None:
        said.append(line)
        understood[0] = PUBLISHED_FIELDS

    queue.submit_many = submit_many  # type: ignore[method-assign]
    runner = Runner(queue, Options({}, in_flight=8), Outbox(written.append, in_order=True), say)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        await runner.run(iter(rows()), may_begin_without=False)
    assert [answer.failed for answer in written] == [False] * ROWS
    [line] = said
    assert line.startswith("no live worker understands 'group': upgrade the workers")


async def test_a_cancel_that_a_command_to_redis_has_lost_is_said_again() -> None:
    """As redis-py loses it up to Python 3.11 where it comes with a reply: Ctrl-C had no effect."""
    is_sending = asyncio.Event()

    class Endless:
        async def result(self, *, check: bool) -> None:
            await asyncio.Event().wait()

    class Deaf:
        async def submit_many(self, requests: Sequence[object], *, job_ids: Sequence[str]) -> list[Endless]:
            is_sending.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return [Endless() for _ in job_ids]

    queue = Deaf()
    running = asyncio.create_task(runner_of(queue, lambda _: None, []).run(iter(rows()), may_begin_without=False))
    await is_sending.wait()
    running.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await running
