"""Batches over HTTP, with openai's client; a scripted worker answers their rows."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch
from openai.types.chat import ChatCompletion
from openai.types.responses import Response as OpenAIResponse

from producer.batch.answers import Answer
from producer.contract import EngineError, Keys
from producer.gateway import batch_files, batch_run, batch_runners, stored_batches, stored_files
from producer.testing import ScriptedWorker

from .conftest import LONG_S, Door, OpenDoor, opened
from .test_entrance import keys_file
from .test_response_tools import FUNCTION, THOUGHT
from .test_tools import CALL

KEYS = Keys()
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
OVER = ("completed", "failed", "cancelled", "expired")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a gateway looks at every so often, it looks at more often."""
    monkeypatch.setattr(batch_run, "HOLD_S", 0.05)
    monkeypatch.setattr(batch_run, "FLUSH_S", 0.03)
    monkeypatch.setattr(batch_runners, "LOOK_S", 0.05)


def client_of(door: Door, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=door.url, api_key=key, max_retries=0, http_client=door.http)


def row(number: int, text: str | None = None, **fields: Any) -> dict[str, Any]:
    """Of a chat."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": text or f"row {number}"}], **fields}
    return {"custom_id": f"id-{number}", "method": "POST", "url": CHAT, "body": body}


def lines(*rows: Any) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in rows)


async def begin(client: AsyncOpenAI, *rows: Any, endpoint: str = CHAT, window: str = "24h", **options) -> Batch:
    file = await client.files.create(file=("rows.jsonl", lines(*rows)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window=window, **options
    )


async def until(client: AsyncOpenAI, batch: Batch, *statuses: str) -> Batch:
    async with asyncio.timeout(LONG_S):
        while (batch := await client.batches.retrieve(batch.id)).status not in (statuses or OVER):
            await asyncio.sleep(0.05)
    return batch


async def until_true(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG_S):
        while not happened():
            await asyncio.sleep(0.02)


async def read(client: AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of an output, by the row's own id."""
    if file_id is None:
        return {}
    found = [json.loads(line) for line in (await client.files.content(file_id)).text.splitlines()]
    by_id = {line["custom_id"]: line for line in found}
    assert len(by_id) == len(found), "a row stands there twice"
    return by_id


async def test_a_batch_is_answered(door: Door, worker: ScriptedWorker):
    client = client_of(door)
    begun = await begin(client, *(row(n) for n in range(12)), metadata={"a": "b"})
    assert (begun.object, begun.request_counts.total, begun.metadata) == ("batch", 0, {"a": "b"})
    batch = await until(client, begun)
    Batch.model_validate((await door.http.get(f"/v1/batches/{batch.id}")).json(), strict=True)
    assert (batch.status, batch.model, batch.errors, batch.error_file_id) == ("completed", "tiny", None, None)
    assert batch.request_counts.model_dump() == {"total": 12, "completed": 12, "failed": 0}
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    answers = await read(client, batch.output_file_id)
    assert answers.keys() == {f"id-{n}" for n in range(12)}
    for n in (0, 11):
        response = answers[f"id-{n}"]["response"]
        body = ChatCompletion.model_validate(response["body"])
        assert (response["status_code"], body.choices[0].message.content) == (200, f"scripted answer to: row {n}")
    output = await client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert output.bytes == len((await client.files.content(output.id)).content)
    assert {worker.client.hget(f"rq:job:{each.job_id}", "origin") for each in worker.requests} == {
        b"generate.tiny.low"
    }
    assert worker.client.exists(KEYS.open_batches, KEYS.batch_runners) == 0


@pytest.mark.parametrize("endpoint", [COMPLETIONS, RESPONSES])
async def test_each_endpoint_is_answered_as_it_would_be(door: Door, worker: ScriptedWorker, endpoint: str):
    client = client_of(door)
    worker.answers("Hi", "Hello.")
    asked = {"prompt": "Hi"} if endpoint == COMPLETIONS else {"input": "Hi", "metadata": {"a": "b"}}
    one = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "tiny", **asked}}
    batch = await until(client, await begin(client, one, endpoint=endpoint))
    body = (await read(client, batch.output_file_id))["a"]["response"]["body"]
    if endpoint == COMPLETIONS:
        assert body["choices"][0]["text"] == "Hello."
    else:
        response = OpenAIResponse.model_validate(body)
        assert (response.output_text, response.metadata, response.status) == ("Hello.", {"a": "b"}, "completed")


async def test_a_response_that_calls_has_its_calls(door: Door, worker: ScriptedWorker):
    client = client_of(door)
    worker.answers("Hi", THOUGHT + CALL)
    body = {"model": "tiny", "input": "Hi", "tools": [FUNCTION]}
    one = {"custom_id": "a", "method": "POST", "url": RESPONSES, "body": body}
    batch = await until(client, await begin(client, one, endpoint=RESPONSES))
    found = (await read(client, batch.output_file_id))["a"]["response"]["body"]
    alone = (await door.http.post(RESPONSES, json=body)).json()
    for response, its in ((found, "batch"), (alone, "alone")):
        OpenAIResponse.model_validate(response)
        for item in response["output"]:
            assert item.pop("id"), its
            item.pop("call_id", None)
    assert found["output"] == alone["output"]
    assert {item["type"] for item in found["output"]} >= {"reasoning", "function_call"}


async def test_a_row_that_is_refused_or_fails_is_an_error_of_that_row(door: Door, worker: ScriptedWorker):
    client = client_of(door)

    def answer(asked) -> str:
        if asked.prompt == "fail":
            raise EngineError("it broke")
        return "well"

    worker.answer_with(answer)
    rows = [
        row(0),
        row(1, "fail"),
        row(2, top_p=9),
        row(3, audio={}),
        row(4, n=2),
        row(5, stream=True),
        row(6, max_tokens=2, stop=None),
        row(7, seed="x"),
    ]
    batch = await until(client, await begin(client, *rows))
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 8, "completed": 2, "failed": 6}
    answers, errors = await read(client, batch.output_file_id), await read(client, batch.error_file_id)
    assert answers.keys() == {"id-0", "id-6"}
    assert answers["id-6"]["response"]["body"]["choices"][0]["finish_reason"] == "length"
    assert {key: line["response"]["status_code"] for key, line in errors.items()} == {
        **{f"id-{n}": 400 for n in (2, 3, 4, 5, 7)},
        "id-1": 500,
    }
    assert "it broke" in errors["id-1"]["response"]["body"]["error"]["message"]
    assert "top_p" in errors["id-2"]["response"]["body"]["error"]["message"]
    assert len(worker.requests) == 3


@pytest.mark.parametrize(
    ("rows", "code", "line"),
    [([row(0), row(1, "x" * 5_000)], "line_too_long", 2), ([row(0, model="unknown")], "model_not_found", None)],
)
async def test_a_file_that_will_not_do_fails_as_a_whole(
    open_door: OpenDoor, worker: ScriptedWorker, rows: list[Any], code: str, line: int | None
):
    client = client_of(await open_door(max_body_bytes=2_000))
    batch = await until(client, await begin(client, *rows))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, line)]
    assert batch.errors.data[0].message
    assert worker.requests == []
    assert worker.client.exists(KEYS.open_batches, KEYS.batch_runners) == 0


async def test_a_batch_is_its_owners_alone(open_door: OpenDoor, worker: ScriptedWorker, tmp_path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"), max_batches=2)
    alice, bob = (client_of(door, name) for name in ("alice", "bob"))
    batch = await until(alice, await begin(alice, row(0)))
    for asked in (
        bob.batches.retrieve(batch.id),
        bob.batches.cancel(batch.id),
        bob.files.content(batch.output_file_id),
        bob.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError):
            await asked
    assert [each async for each in bob.batches.list()] == []
    assert worker.requests[0].group == "alice"
    assert worker.requests[0].request.cache_salt is not None
    await begin(alice, row(0))
    with pytest.raises(openai.RateLimitError, match="2 batches"):
        await begin(alice, row(0))


async def test_a_batch_on_which_gateways_fail_fails(
    door: Door, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It was taken on again, every ten seconds, for as long as it was kept. What it has it keeps."""
    monkeypatch.setattr(batch_run, "AGAIN_S", 0.05)
    tries, good = [], batch_run.answer_line

    def fail(answer: Answer, *others: object) -> dict[str, Any]:
        if answer.row.custom_id == "id-1":
            tries.append(answer)
            raise ZeroDivisionError("a bug")
        return good(answer, *others)

    monkeypatch.setattr(batch_run, "answer_line", fail)
    client = client_of(door)
    batch = await until(client, await begin(client, row(0), row(1)))
    assert (batch.status, [error.code for error in batch.errors.data]) == ("failed", ["internal"])
    assert len(tries) == batch_run.MOST_TRIES
    assert "a bug" in caplog.text
    assert "bug" not in batch.errors.data[0].message
    assert worker.client.exists(KEYS.open_batches, KEYS.batch_runners) == 0


async def test_batches_are_listed_page_by_page(door: Door, worker: ScriptedWorker):
    """Also where some are gone by now: a page without any ended the list."""
    client = client_of(door)
    made = sorted([(await begin(client, row(n))).id for n in range(6)], reverse=True)
    assert [each.id async for each in client.batches.list(limit=2)] == made
    for gone in made[:3]:
        worker.client.delete(KEYS.batch("", gone))
    assert [each.id async for each in client.batches.list(limit=1)] == made[3:]
    assert (await door.http.get("/v1/batches?after=x")).json()["error"]["param"] == "after"
    for path in ("batch_x", "batch_..%2fx", "file-" + "0" * 32):
        assert (await door.http.get(f"/v1/batches/{path}")).status_code == 404


def stick_after(worker: ScriptedWorker, most: float) -> list[str]:
    """The worker answers so many rows, and hangs over the next. Returns prompts, as they are answered."""
    answered: list[str] = []

    def answer(asked) -> str:
        answered.append(asked.prompt)
        if len(answered) > most:
            worker.delay_s = float("inf")
        return "well"

    worker.answer_with(answer)
    return answered


def go_on(worker: ScriptedWorker) -> list[str]:
    """It hangs over nothing any more. Returns prompts, as they are answered from now on."""
    answered = stick_after(worker, float("inf"))
    worker.delay_s = 0
    return answered


def waiting(worker: ScriptedWorker) -> int:
    return worker.client.llen("rq:queue:generate.tiny.low")


def completed(worker: ScriptedWorker, batch: Batch) -> int:
    """Rows that are known to be."""
    return int(worker.client.hget(KEYS.batch("", batch.id), "completed") or 0)


def written(worker: ScriptedWorker, batch: Batch) -> int:
    """Answers that stand in the output. They are counted as soon as they are there, and written soon after."""
    output = batch_files._Written(batch.id, "output")
    parts = worker.client.hvals(KEYS.file_parts("", output.id))
    return sum(part.count(b"\n") for part in parts)


async def ends_with_a_line_for_each(client: AsyncOpenAI, batch: Batch, rows: list[Any], code: str) -> None:
    """Each row has its answer, or a line that says why it has none."""
    answers, errors = await read(client, batch.output_file_id), await read(client, batch.error_file_id)
    assert answers.keys() | errors.keys() == {each["custom_id"] for each in rows}
    assert not answers.keys() & errors.keys()
    assert {line["error"]["code"] for line in errors.values()} == {code}
    counts = {"total": len(rows), "completed": len(answers), "failed": len(errors)}
    assert batch.request_counts.model_dump() == counts


async def test_a_batch_that_is_cancelled_keeps_what_it_has(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door(batch_in_flight=4)
    client, rows = client_of(door), [row(n) for n in range(20)]
    stick_after(worker, 6)
    batch = await begin(client, *rows)
    await until_true(lambda: completed(worker, batch) == 6)
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    assert (await client.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
    batch = await until(client, batch)
    assert (batch.status, batch.cancelled_at is not None, batch.completed_at) == ("cancelled", True, None)
    assert (batch.request_counts.completed, waiting(worker)) == (6, 0)
    await ends_with_a_line_for_each(client, batch, rows, "batch_cancelled")
    with pytest.raises(openai.APIStatusError) as refused:
        await client.batches.cancel((await until(client, await begin(client, b"{"))).id)
    assert refused.value.status_code == 409
    assert refused.value.response.headers["x-should-retry"] == "false"


async def test_a_batch_that_takes_too_long_is_expired(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door(batch_in_flight=4)
    client, rows = client_of(door), [row(n) for n in range(9)]
    stick_after(worker, 3)
    batch = await until(client, await begin(client, *rows, window="1s"))
    assert (batch.status, batch.expired_at is not None, waiting(worker)) == ("expired", True, 0)
    assert batch.request_counts.completed <= 3
    await ends_with_a_line_for_each(client, batch, rows, "batch_expired")


@pytest.mark.matrix
async def test_a_batch_whose_time_is_over_before_anybody_runs_it_is_expired(
    open_door: OpenDoor, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
):
    door = await open_door(batches_at_once=1)
    client = client_of(door)
    stick_after(worker, 0)
    first = await begin(client, row(0))
    await until(client, first, "in_progress")
    second = await begin(client, row(1), window="1s")
    await asyncio.sleep(1.1)
    await client.batches.cancel(first.id)
    assert (await until(client, first)).status == "cancelled"
    batch = await until(client, second)
    assert batch.status == "expired"
    await ends_with_a_line_for_each(client, batch, [row(1)], "batch_expired")


async def test_a_batch_that_is_cancelled_at_once_has_no_outputs(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door(batches_at_once=1)
    client = client_of(door)
    stick_after(worker, 0)
    first = await begin(client, row(0))
    await until(client, first, "in_progress")
    second = await begin(client, row(1))
    await client.batches.cancel(second.id)
    await client.batches.cancel(first.id)
    batch = await until(client, second)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("cancelled", None, None)


async def test_a_worker_that_dies_over_a_row_costs_nothing(door: Door, worker: ScriptedWorker):
    client = client_of(door)
    worker.crash_after(2)
    batch = await until(client, await begin(client, *(row(n) for n in range(5))))
    assert (batch.status, batch.request_counts.completed) == ("completed", 5)
    assert len(await read(client, batch.output_file_id)) == 5


@pytest.mark.parametrize(
    ("part_bytes", "was_killed"),
    [pytest.param(64, True, marks=pytest.mark.matrix), (stored_files.PART_BYTES, False)],
)
async def test_another_gateway_goes_on_with_what_one_has_left(
    open_door: OpenDoor, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, part_bytes: int, was_killed: bool
):
    """One that was killed says nothing more. One that was frozen goes on, and finds that another has the batch."""
    monkeypatch.setattr(batch_files, "PART_BYTES", part_bytes)
    first, rows = await open_door(batch_in_flight=4), [row(n) for n in range(20)]
    rows[2] = row(2, top_p=9)
    before = stick_after(worker, 6)
    batch = await begin(client_of(first), *rows)
    await until_true(lambda: written(worker, batch) == 6)
    [task] = first.gateway.runners._runs

    thaw = freeze(first, monkeypatch)
    if was_killed:
        task.cancel()
        forget_what_was_answered(worker)
    runner = worker.client.hget(KEYS.batch_runners, f" {batch.id}")
    second = await open_door(batch_in_flight=8, max_tokens=7)  # which makes no other jobs of its rows

    def is_taken_on() -> bool:
        """The lease of the first is over, also where it had said something just before."""
        if worker.client.hget(KEYS.batch_runners, f" {batch.id}") != runner:
            return True
        worker.client.zadd(KEYS.open_batches, {f" {batch.id}": 1})
        return False

    await until_true(is_taken_on)
    thaw.set()
    await asyncio.wait([task], timeout=LONG_S)
    assert task.done()
    after = go_on(worker)
    batch = await until(client_of(second), batch)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 19, 1)
    answers, errors = (
        await read(client_of(second), batch.output_file_id),
        await read(client_of(first), batch.error_file_id),
    )
    assert answers.keys() | errors.keys() == {each["custom_id"] for each in rows}
    assert len(set(before + after)) == len(before + after) == 19


def freeze(door: Door, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """It says nothing of its batches until the event, and takes none on."""
    thawed, mark = asyncio.Event(), door.gateway.batches.mark

    async def mark_later(*args: Any, **options: Any) -> str:
        await thawed.wait()
        return await mark(*args, **options)

    async def nothing_more() -> None:
        """It takes no batch on."""

    monkeypatch.setattr(door.gateway.batches, "mark", mark_later)
    monkeypatch.setattr(door.gateway.batches, "lease", nothing_more)
    return thawed


def forget_what_was_answered(worker: ScriptedWorker) -> None:
    """The jobs' time is over. What is in the output is not asked again."""
    for each in worker.requests[:6]:
        worker.client.delete(f"rq:job:{each.job_id}", KEYS.events(each.job_id), KEYS.result(each.job_id))


async def test_what_is_written_of_a_batch_that_another_runs_is_refused(door: Door):
    batch = await until(client_of(door), await begin(client_of(door), row(0)))
    stored = await door.gateway.batches.find("", batch.id)
    outputs = batch_files.Outputs(door.gateway.files, stored, stored_batches.Lease("", batch.id, "nobody"))
    await outputs.recover()
    assert outputs.counts == {"completed": 1, "failed": 0}
    outputs.put("batch-00000000-2-0123456789abcdef", {}, failed=False)
    with pytest.raises(batch_files.LostError):
        await outputs.flush()
    assert len(await read(client_of(door), batch.output_file_id)) == 1


async def test_what_a_batch_has_written_is_kept_until_it_is_over(door: Door, worker: ScriptedWorker):
    """No row may come for longer than the outputs are kept, as where no worker is there."""
    client, expiry = client_of(door), {"anchor": "created_at", "seconds": 3600}
    stick_after(worker, 1)
    batch = await begin(client, row(0), row(1), output_expires_after=expiry)
    await until_true(lambda: completed(worker, batch) == 1)
    outputs = batch_files.Outputs(
        door.gateway.files, await door.gateway.batches.find("", batch.id), stored_batches.Lease("", batch.id, "")
    )
    parts = KEYS.file_parts("", outputs._kept["output"].id)
    assert worker.client.ttl(parts) > 86_400
    go_on(worker)
    await until(client, batch)
    assert worker.client.ttl(parts) == pytest.approx(3600, abs=60)


async def test_a_gateway_that_ends_leaves_its_batches_at_once(
    open_door: OpenDoor, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
):
    before = stick_after(worker, 2)
    async with opened(batch_in_flight=4) as ending:
        batch = await begin(client_of(ending), row(0), row(1), row(2))
        await until_true(lambda: completed(worker, batch) == 2)
    after = go_on(worker)
    assert stored_batches.LEASE_S >= 10
    async with asyncio.timeout(stored_batches.LEASE_S / 2):
        batch = await until(client_of(await open_door()), batch)
    assert batch.request_counts.completed == 3
    assert sorted(before + after) == ["row 0", "row 1", "row 2"]


async def test_a_batch_whose_input_is_deleted_fails_with_what_it_has(
    open_door: OpenDoor, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("producer.gateway.uploads.PART_BYTES", 200)
    monkeypatch.setattr(stored_files, "PARTS_AT_ONCE", 1)
    monkeypatch.setattr(batch_run, "READ_BYTES", 200)
    door = await open_door(batch_in_flight=4)
    client = client_of(door)
    stick_after(worker, 6)
    batch = await begin(client, *(row(n) for n in range(120)))
    await until_true(lambda: completed(worker, batch) == 6)
    await client.files.delete(batch.input_file_id)
    go_on(worker)
    batch = await until(client, batch)
    assert (batch.status, [error.code for error in batch.errors.data]) == ("failed", ["input_file_gone"])
    assert 6 <= len(await read(client, batch.output_file_id)) < 120


async def test_a_gateway_may_leave_batches_to_others(open_door: OpenDoor):
    client = client_of(await open_door(batches_at_once=0))
    batch = await begin(client, row(0))
    await asyncio.sleep(3 * batch_runners.LOOK_S)
    assert (await client.batches.retrieve(batch.id)).status == "validating"
    await open_door()
    assert (await until(client, batch)).status == "completed"


async def test_a_batch_waits_for_a_worker(open_door: OpenDoor, worker: ScriptedWorker):
    """For one that has been there: of a model that nobody knows it fails."""
    door = await open_door()
    client = client_of(door)
    assert (await door.chat("Hi")).status_code == 200
    with worker.paused():
        batch = await begin(client, row(0))
        await until(client, batch, "in_progress")
        assert waiting(worker) == 0 or batch.status == "validating"
    assert (await until(client, batch)).status == "completed"
