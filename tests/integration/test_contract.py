"""The specification in producer/contract/README.md, taken at its word: its commands, and none of our code."""

import json
import re
import shlex
import time
import uuid
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from .worker_process import WorkerProcess

README = (Path(__file__).parents[2] / "producer" / "contract" / "README.md").read_text()
TERMINAL = {b"finished", b"failed", b"cancelled"}


def commands(section: int, block: int = 1) -> list[str]:
    """The lines of the first block of commands in a section, or of another one."""
    text = README.split(f"\n## {section}. ")[1].split("\n## ")[0]
    return text.split("```redis\n")[block].split("```")[0].splitlines()


def run(client: redis.Redis, section: int, lines: list[str] | None = None, **values: str | bytes) -> list:
    """Send the commands of a section, with the words that stand for something replaced; their replies."""
    replies = []
    with client.client() as one_connection:  # MULTI and EXEC belong to one
        for line in lines or commands(section):
            words: list[str | bytes] = []
            for word in shlex.split(line):
                whole = values.get(word)
                words.append(whole if whole is not None else re.sub("JOB", str(values["JOB"]), word))
            replies.append(one_connection.execute_command(*words))
    return replies


def enqueue(
    client: redis.Redis,
    request: dict,
    *,
    job_id: str | None = None,
    compressed: bool = True,
    wait_ms: int = 86_400_000,
    group: str | None = None,
) -> str:
    job_id = job_id or str(uuid.uuid4())
    call = json.dumps(["worker.jobs.generate", None, [], {"request": request}]).encode()
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    seconds, microseconds = client.time()
    now_ms = seconds * 1000 + microseconds // 1000
    meta = json.dumps({"expires_at": (now_ms + wait_ms) / 1000, "mine": "kept"})
    data = zlib.compress(call) if compressed else call
    times = {"NOW": now, "NOW_MS": str(now_ms), "EXPIRES_MS": str(now_ms + wait_ms)}
    lines = commands(3)
    if group is not None:  # as 3.10 has it
        of_the_group = [line.replace("generate.tiny", f"generate.tiny@{group}") for line in lines[:-1]]
        lines = [*of_the_group, *commands(3, block=2), lines[-1]]
        times["GROUP"] = group
    run(client, 3, lines, JOB=job_id, DATA=data, META=meta, **times)
    return job_id


def follow(client: redis.Redis, job_id: str, cursor: str = "0-0"):
    """The events after a cursor, until the terminal one."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        [reply] = run(client, 6, JOB=job_id, CURSOR=cursor)
        for _, entries in reply or []:
            for entry_id, fields in entries:
                cursor = entry_id.decode()
                yield cursor, fields[b"type"], json.loads(fields[b"data"])
                if fields[b"type"] in TERMINAL:
                    return
    raise TimeoutError


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("compressed", [True, False])
def test_a_job_of_plain_commands_is_answered_and_followed(client: redis.Redis, compressed: bool) -> None:
    request = {"messages": [{"role": "user", "content": "你好，介绍一下你自己"}], "max_new_tokens": 12, "seed": 7}

    job_id = enqueue(client, request, compressed=compressed)
    events = list(follow(client, job_id))
    [raw] = run(client, 7, JOB=job_id)
    result = json.loads(raw)

    assert [event_id for event_id, _, _ in events] == [f"1-{seq}" for seq in range(len(events))]
    assert (events[0][1], events[-1][1]) == (b"started", b"finished")
    assert result == events[-1][2]
    tokens = [data for _, event_type, data in events if event_type == b"tokens"]
    assert "".join(data["text"] for data in tokens) == result["text"] != ""
    assert [token_id for data in tokens for token_id in data["ids"]] == result["token_ids"]
    assert (result["job_id"], result["seed"]) == (job_id, 7)
    assert result["timings"]["queued_ms"] is not None
    middle = (len(events) - 1) // 2  # all tokens may come in one event
    assert list(follow(client, job_id, events[middle][0])) == events[middle + 1 :]
    assert json.loads(client.hget(f"rq:job:{job_id}", "meta") or "{}")["mine"] == "kept"


@pytest.mark.usefixtures("serving")
def test_a_job_with_the_required_fields_alone_is_answered(client: redis.Redis) -> None:
    table = README.split("| field | | holds |\n|---|---|---|\n")[1].split("\n\n")[0]
    required = re.findall(r"^\| `(\w+)` \| required", table, re.MULTILINE)
    assert required == ["data", "origin", "status"]

    data = json.dumps(["worker.jobs.generate", None, [], {"request": {"prompt": "Hi", "max_new_tokens": 2}}])
    job_id = uuid.uuid4().hex
    client.hset(f"rq:job:{job_id}", mapping={"data": data, "origin": "generate.tiny", "status": "queued"})
    client.rpush("rq:queue:generate.tiny", job_id)

    assert [event_type for _, event_type, _ in follow(client, job_id)][-1] == b"finished"


def test_jobs_of_plain_commands_take_turns_by_their_groups(client: redis.Redis, serving: WorkerProcess) -> None:
    with serving.engine_stopped():  # all are there before the second is taken
        jobs = [enqueue(client, {"prompt": "Hi", "max_new_tokens": 2}, group="alice") for _ in range(3)]
        jobs.append(enqueue(client, {"prompt": "Hi", "max_new_tokens": 2}, group="bob~40x.org"))
        assert client.llen("gen:{bell:tiny}") == 1

    results = [list(follow(client, job_id))[-1][2] for job_id in jobs]

    assert {result["status"] for result in results} == {"finished"}
    of_alice, of_bob = jobs[:3], jobs[3]
    started = {job_id: client.hget(f"rq:job:{job_id}", "started_at") for job_id in jobs}
    in_order = sorted(jobs, key=lambda job_id: started[job_id] or b"")
    assert in_order == [*of_alice[:2], of_bob, of_alice[2]], "one runs, and one is before"


def test_a_job_of_plain_commands_is_cancelled(client: redis.Redis, serving: WorkerProcess) -> None:
    job_id = uuid.uuid4().hex
    with serving.engine_stopped():  # or the job could end before the request comes
        enqueue(client, {"prompt": "Hi", "max_new_tokens": 900, "ignore_eos": True}, job_id=job_id)
        run(client, 8, JOB=job_id)

    *_, (_, event_type, result) = follow(client, job_id)

    assert (event_type, result["status"], result["finish_reason"]) == (b"cancelled", "cancelled", "cancelled")
    assert not client.exists(f"gen:{{{job_id}}}:cancel")


@pytest.mark.usefixtures("serving")
def test_a_job_of_plain_commands_expires_at_its_deadline(client: redis.Redis) -> None:
    *_, (_, event_type, result) = follow(client, enqueue(client, {"prompt": "Hi"}, wait_ms=-1))

    assert (event_type, result["error"]["code"]) == (b"failed", "expired")


@pytest.mark.usefixtures("serving")
def test_a_field_that_the_worker_does_not_know_is_named(client: redis.Redis) -> None:
    *_, (_, event_type, result) = follow(client, enqueue(client, {"prompt": "Hi", "reasoning": "high"}))

    assert (event_type, result["error"]["code"]) == (b"failed", "invalid_request")
    assert "does not know the field 'reasoning'" in result["error"]["message"]
