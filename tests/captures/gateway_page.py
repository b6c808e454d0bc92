"""The gateway's page: empty, in mid-answer beside a long queue, with an error, and where it asks for a key."""

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
import yaml

from producer import Producer
from producer.testing.worker import ScriptedWorker, scripted_worker
from tests.devtools import Tab, open_tab
from tests.integration.gateway_thread import GatewayThread

WIDTHS = (390, 1280)
QUESTION = "What is a job queue, and what happens to a prompt in it?"
ANSWER = """A job queue keeps work that is to be done, so that whoever asks need not wait for whoever works.

Here each prompt is a job. It waits in Redis until a worker with a GPU takes it, and what the worker writes goes \
into a stream, token by token:

1. You ask, and get the job's id at once.
2. A worker takes the job when its turn comes.
3. The answer comes back as it is made.

```
genqueue submit "What is a job queue?" --model-name llama-3.2-3b --stream
```

If the worker dies, another one goes on after its last token, and whoever reads the stream sees nothing of it."""
FAILURE = "the prompt has 5,200 tokens, and the context holds 4,096: make it shorter"
SETTLE_S = 0.3
TRACE_S = 12.0


def take_gateway_page(to: Path) -> None:
    """Each at each width, light and dark."""
    with scripted_worker() as worker, pytest.MonkeyPatch.context() as patch, open_tab(to / "profile-tab") as tab:
        patch.setenv("GENQUEUE_REDIS_URL", worker.url)
        worker.serves("llama-3.2-3b")
        with GatewayThread() as gateway:
            tab.open(gateway.url)
            tab.until("document.querySelector('#model').value")
            take(tab, to, "empty")
            fill(worker.client)
            answer(tab, worker, to)
            fail(tab, worker, to)
        with GatewayThread(api_keys=keys_file(to)) as gateway:
            tab.open(gateway.url)
            tab.until("document.querySelector('#key-dialog').open")
            take(tab, to, "key")


def answer(tab: Tab, worker: ScriptedWorker, to: Path) -> None:
    """In the middle, and with its timeline at the end."""
    worker.answers(QUESTION, [f"{word} " for word in ANSWER.split(" ")])
    for second in range(int(TRACE_S)):  # so that tokens/s have a course
        go_on(worker.client, second)
        time.sleep(1)
    worker.delay_s = 0.15
    ask(tab, QUESTION)
    tab.until("document.querySelector('.assistant .text')?.textContent.length > 290")
    take(tab, to, "answer")
    worker.delay_s = 0
    tab.until("!document.querySelector('.is-made')")
    tab.click(".foot button:last-of-type")
    tab.until("document.querySelector('.foot .events')")
    take(tab, to, "timeline")
    tab.click("[data-show=queue]")
    tab.run("document.querySelector('.jobs button').click()")
    tab.until("document.querySelector('.jobs .events')")
    take(tab, to, "queue")
    tab.run("document.querySelector('.jobs button').click()")
    tab.click("[data-show=chat]")


def fail(tab: Tab, worker: ScriptedWorker, to: Path) -> None:
    """With the options open."""
    tab.click(".foot button:last-of-type")
    worker.fails("Again, please.", "prompt_too_long", FAILURE)
    tab.run("document.querySelector('#text').focus()")
    ask(tab, "Again, please.")
    tab.until("document.querySelector('.error')")
    tab.run("document.querySelector('#options').open = true")
    take(tab, to, "error")


def ask(tab: Tab, text: str) -> None:
    """As one types it."""
    tab.type(text)
    tab.press("Enter")


def take(tab: Tab, to: Path, name: str) -> None:
    """The page as it is."""
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            tab.look(width=width, height=820, dark=scheme == "dark")
            time.sleep(SETTLE_S)
            tab.screenshot(to / f"gateway-{name}-{width}-{scheme}.png")
    tab.look()


# -- a queue that nobody works on


MODEL = "qwen2.5-7b"
PHASES = ("decoding", "decoding", "paused", "prefill")


def fill(client: redis.Redis) -> None:
    """Four workers with a job each, two hundred jobs that wait, and some that have ended."""
    queues = [f"generate.{MODEL}.high", f"generate.{MODEL}", f"generate.{MODEL}.low"]
    now = datetime.now(UTC)
    for number in range(len(PHASES)):
        record = {
            "birth": "2026-01-01T00:00:00Z", "queues": ",".join(queues), "state": "busy", "model_state": "ready",
            "device": "cuda:0", "job_seconds": 8.4 + number, "context_length": 32768,
        }  # fmt: skip
        client.hset(f"rq:worker:gpu-{number}", mapping=record)
        client.sadd("rq:workers", f"rq:worker:gpu-{number}")
        job = {"status": "started", "origin": queues[1], "worker_name": f"gpu-{number}"}
        began = now - timedelta(seconds=7 + 9 * number)
        times = {"enqueued_at": _rq(began - timedelta(seconds=30)), "started_at": _rq(began)}
        client.hset(f"rq:job:report-{number:03}", mapping=job | times)
        client.zadd(f"rq:wip:{queues[1]}", {f"report-{number:03}:run": 2**40})
    go_on(client, 0)
    for number, state in enumerate(("finished", "finished", "failed", "finished", "canceled")):
        ended_at = _rq(now - timedelta(seconds=14 * number + 4))
        meta = json.dumps({"phase": state, "tokens": 412 - 37 * number, "tokens_per_second": 71.3 + number})
        job = {"status": state, "origin": queues[1], "ended_at": ended_at, "meta": meta}
        client.hset(f"rq:job:digest-{number:03}", mapping=job)
        client.zadd(f"rq:{state}:{queues[1]}", {f"digest-{number:03}": 2**32 - number})
    with Producer() as producer:
        for priority, count in (("high", 6), ("normal", 120), ("low", 90)):
            ids = [f"{priority}-{number:03}" for number in range(count)]
            producer.submit_many(["Hi"] * count, model=MODEL, priority=priority, job_ids=ids)


def go_on(client: redis.Redis, second: int) -> None:
    """Another second of the jobs that run."""
    for number, phase in enumerate(PHASES):
        rate = 0.0 if phase == "prefill" else 62 + 11 * number + 9 * ((second * 7 + number * 3) % 5)
        meta = {"phase": phase, "tokens": 240 * (number + 1) + 60 * second, "tokens_per_second": rate}
        client.hset(f"rq:job:report-{number:03}", "meta", json.dumps(meta))


def _rq(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def keys_file(to: Path) -> Path:
    """One key."""
    path = to / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": [{"name": "alice", "sha256": hashlib.sha256(b"key").hexdigest()}]}))
    return path
