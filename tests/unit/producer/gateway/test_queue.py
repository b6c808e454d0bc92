"""What a page is told of the queue: whose jobs, how dear it is, and what has happened to one."""

import asyncio
import json
from contextlib import contextmanager
from pathlib import Path

import redis.asyncio.client

from producer import Producer
from producer.gateway import board
from producer.gateway.shared_read import SharedRead
from producer.testing import ScriptedWorker

from .conftest import LONG_S, Door, OpenDoor
from .test_entrance import bearer, keys_file

CHAT = "/v1/chat/completions"
ASYNC = {"Prefer": "respond-async"}


async def queue_of(door: Door, **headers: str) -> dict:
    answer = await door.http.get("/v1/queue", headers=headers)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store"), answer.text
    return answer.json()


async def until(is_so):
    """What it gives once it is true."""
    async with asyncio.timeout(LONG_S):
        while not (found := await is_so()):
            await asyncio.sleep(0.005)
        return found


async def ended(door: Door, job_id: str) -> dict | None:
    """What has happened to a job, once its record says that it has ended."""
    found = (await door.http.get(f"/v1/queue/{job_id}")).json()
    return found if found["ended_at"] else None


async def submitted(door: Door, text: str = "Hi", **headers: str) -> str:
    """The job of a chat that is read later."""
    answer = await door.http.post(CHAT, json=Door.body(text), headers=ASYNC | headers)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"].removeprefix("chatcmpl-")


async def test_jobs_are_listed_as_they_wait_and_end(door: Door, worker: ScriptedWorker):
    with worker.paused():
        job_ids = [await submitted(door), await submitted(door)]
        urgent = await submitted(door, **{"X-Priority": "high"})
        found = await queue_of(door)
        assert [(job["id"], job["state"], job["priority"]) for job in found["jobs"]] == [
            (urgent, "queued", "high"),
            *((job_id, "queued", "normal") for job_id in job_ids),
        ]
        assert all(0 <= job["since_s"] < LONG_S for job in found["jobs"])
        [model] = found["models"]
        assert (model["model"], model["queued"], len(model["workers"])) == ("tiny", 3, 1)
    for job_id in job_ids:
        await door.http.get(f"{CHAT}/chatcmpl-{job_id}")

    async def finished() -> bool:
        door.gateway.producer._board._until = 0.0
        jobs = (await queue_of(door))["jobs"]
        assert "Hi" not in json.dumps(jobs)
        return {job["id"] for job in jobs if job["state"] == "finished"} >= set(job_ids)

    await until(finished)  # the worker says so a moment after the last event


async def test_jobs_of_other_keys_are_counted_and_not_listed(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path
):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"))
    assert (await door.http.get("/v1/queue")).status_code == 401
    with worker.paused(), Producer() as script:
        script.submit("Hi", model="tiny")
        hers, his = await submitted(door, **bearer("alice")), await submitted(door, **bearer("bob"))
        for name, own in (("alice", hers), ("bob", his)):
            found = await queue_of(door, **bearer(name))
            assert [job["id"] for job in found["jobs"]] == [own]
            assert found["models"][0]["queued"] == 3
            for job_id in (hers, his):
                answer = await door.http.get(f"/v1/queue/{job_id}", headers=bearer(name))
                assert answer.status_code == (200 if job_id == own else 404)


async def test_what_has_happened_to_a_job(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", ["x", "y"])
    with worker.paused():
        job_id = await submitted(door)
        waiting = (await door.http.get(f"/v1/queue/{job_id}")).json()
        assert (waiting["state"], waiting["attempts"], waiting["tokens"]) == ("queued", [], None)
        worker.crash_after(1)
    await door.http.get(f"{CHAT}/chatcmpl-{job_id}")
    found = await until(lambda: ended(door, job_id))
    assert found["queued_at"] == waiting["queued_at"]
    assert found["queued_at"] <= found["started_at"] <= found["ended_at"]
    assert (found["state"], found["finish_reason"], found["tokens"]) == ("finished", "stop", 2)
    assert [(each["attempt"], each["resumed_tokens"]) for each in found["attempts"]] == [(1, 0), (2, 1)]
    assert "xy" not in json.dumps(found)


async def test_a_job_that_is_not_ours_is_not_there(door: Door, worker: ScriptedWorker):
    worker.client.hset("rq:job:foreign", mapping={"status": "queued", "origin": "default"})
    for job_id in ("none", "foreign", "{x}", "%0a", "x" * 300):
        answer = await door.http.get(f"/v1/queue/{job_id}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_job"), job_id


@contextmanager
def counted(monkeypatch):
    """Round trips and commands."""
    sent: list[int] = []
    execute = redis.asyncio.client.Pipeline.execute

    async def counting(pipeline, *args, **options):
        sent.append(len(pipeline.command_stack))
        return await execute(pipeline, *args, **options)

    monkeypatch.setattr(redis.asyncio.client.Pipeline, "execute", counting)
    yield sent


async def test_many_pages_share_one_read(door: Door, worker: ScriptedWorker, monkeypatch):
    with worker.paused(), Producer() as script, counted(monkeypatch) as sent:
        script.submit_many(["Hi"] * 500, model="tiny")
        found = await asyncio.gather(*(queue_of(door) for _ in range(50)))
        assert all(each == found[0] for each in found)
        assert len(found[0]["jobs"]) == board.WAITING_SHOWN
        assert found[0]["models"][0]["queued"] == 500
    # Names; workers and queues; then a record of each job that is listed.
    assert len(sent) == 3
    assert sum(sent) < board.WAITING_SHOWN + 50


async def test_a_read_that_fails_is_not_kept_and_nobody_who_leaves_ends_it():
    answers = [ZeroDivisionError(), 1, 2]
    going = asyncio.Event()

    async def read() -> int:
        await going.wait()
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shared = SharedRead(read, LONG_S)
    asking = [asyncio.create_task(shared.get()) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    going.set()
    failed = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in failed] == [asyncio.CancelledError, ZeroDivisionError, ZeroDivisionError]
    assert [await shared.get(), await shared.get()] == [1, 1]
    shared._until = 0.0
    assert await shared.get() == 2
