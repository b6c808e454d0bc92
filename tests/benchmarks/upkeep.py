"""What keeping house costs Redis: an idle worker, a job, an append, many workers, many queued jobs.

    python -m tests.benchmarks.upkeep [--workers 1 50 200] [--queued 0 100000] [--seconds 20]

Starts a server and workers of its own. The upkeep loops of many workers (beats, looks at each other, expiry) run
in a few processes, without engines. Prints hardware, commit and a table; the last line is JSON.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.broker.outage import Outage
from producer.contract import BEFORE_FIRST, Entry, EventId, Keys
from producer.ledger.step import script
from producer.ledger.stream import Appender
from tests.integration.worker_process import WorkerProcess
from tests.models import tiny_model_paths
from worker.links import Links
from worker.lives import Lives
from worker.metrics import Metrics
from worker.presence import Presence
from worker.queue.rq_worker import GenerationWorker
from worker.registering import Registrar
from worker.run.runner import Runner
from worker.settings import WorkerSettings
from worker.side_tasks import run_beside
from worker.upkeep import Upkeep

LOOPS_A_PROCESS = 50
MODEL = "tiny"
LATE_JOBS = 20
LATE_TTL_S = 5.0
BATCH = 10_000


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 50, 200])
    parser.add_argument("--queued", type=int, nargs="+", default=[0, 100_000])
    parser.add_argument("--seconds", type=float, default=20.0, help="Length of each measurement.")
    parser.add_argument("--loops", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loops:
        logging.basicConfig(level=logging.WARNING)
        asyncio.run(run_loops(options.url, options.loops))
        return
    figures = measure(options.workers, options.queued, options.seconds)
    show(figures)
    print(json.dumps(figures))


def measure(workers: list[int], queued: list[int], seconds: float) -> dict[str, Any]:
    """All figures, with where they were taken."""
    with tempfile.TemporaryDirectory() as folder, real_worker(Path(folder)) as (broker, client, process):
        process.wait_until_ready()
        time.sleep(3)
        figures: dict[str, Any] = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "server": server_of(client),
            "commit": subprocess.run(
                ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
            ).stdout.strip(),
            "idle_commands_per_second": idle_rate(client, seconds),
            "commands_per_job": commands_per_job(broker.url),
            "commands_in_an_append": commands_in_an_append(client),
        }
    figures["upkeep"] = [fleet(count, depth, seconds) for depth in queued for count in workers]
    return figures


@contextlib.contextmanager
def real_worker(folder: Path) -> Iterator[tuple[EmbeddedBroker, redis.Redis, WorkerProcess]]:
    """A server, and one worker on it that has nothing to do."""
    with EmbeddedBroker() as broker, redis.Redis(port=broker.port) as client:
        process = WorkerProcess(broker.url, tiny_model_paths(), folder / "log")
        try:
            yield broker, client, process
        finally:
            process.stop()


def server_of(client: redis.Redis) -> str:
    """Its name and version."""
    info = client.info("server")
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"


def calls(client: redis.Redis) -> int:
    """Commands so far, those of scripts included, and these looks not."""
    stats = client.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name not in {"cmdstat_info", "cmdstat_monitor"})


def idle_rate(client: redis.Redis, seconds: float) -> float:
    """Commands a second of one idle worker, client and scripts together."""
    before, at = calls(client), time.monotonic()
    time.sleep(seconds)
    return round((calls(client) - before) / (time.monotonic() - at), 2)


def commands_per_job(url: str, jobs: int = 20) -> float:
    """Commands that clients send for a job that is submitted, run and awaited, appends not counted."""
    append = Appender(Keys(), "x", "w", as_owner=False).append(BEFORE_FIRST, [], ttl_s=1)
    sha = _sha(append.name)
    seen: list[dict[str, Any]] = []
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:
        threading.Thread(target=_collect, args=(monitor, seen), daemon=True).start()
        with Producer(url) as producer:
            for _ in range(jobs):
                producer.submit("hi", model=MODEL, max_new_tokens=5).result()
        time.sleep(0.5)
    sent = [each["command"] for each in list(seen) if each["client_type"] != "lua"]
    return round(sum(sha not in command for command in sent) / jobs, 1)


def _collect(monitor: Any, seen: list[dict[str, Any]]) -> None:
    with contextlib.suppress(redis.RedisError, ValueError, OSError):
        seen.extend(monitor.listen())


def _sha(name: str) -> str:
    return script(name).sha


def commands_in_an_append(client: redis.Redis, appends: int = 200) -> float:
    """Of a token's append by the worker that runs the job, the call of the script included."""
    keys, job_id, worker = Keys(), "appended", "w"
    client.rpush(keys.taken(worker), job_id)
    appender, previous = Appender(keys, job_id, worker, as_owner=True), BEFORE_FIRST
    before = calls(client)
    for seq in range(appends):
        event_id = EventId(1, seq)
        entry = Entry(event_id, "tokens", f'{{"index":{seq},"ids":[5],"text":"x"}}')
        step = appender.append(
            previous, [entry], ttl_s=60, looks_for_waiters=not seq
        )  # once a second, in a worker
        assert step.run(client).answer == "ok"
        previous = event_id
    return round((calls(client) - before) / appends, 2)


def fleet(count: int, queued: int, seconds: float) -> dict[str, Any]:
    """Server CPU of the upkeep of so many workers with so many queued jobs, and how late deadlines are kept."""
    with EmbeddedBroker() as broker, redis.Redis(port=broker.port) as client, Producer(broker.url) as producer:
        for start in range(0, queued, BATCH):
            producer.submit_many(["hi"] * min(BATCH, queued - start), model=MODEL)
        # What these scripts leave in the server's Lua, tens of MB, is collected bit by bit by those that run next.
        # That is the submits' cost, and not the upkeep's.
        client.script_flush("SYNC")
        processes = [start_loops(broker.url, loops) for loops in _shares(count)]
        try:
            _wait_for_beats(client, count)
            time.sleep(4)
            before, commands, at = _cpu_s(client), calls(client), time.monotonic()
            time.sleep(seconds)
            elapsed = time.monotonic() - at
            cpu, rate = (_cpu_s(client) - before) / elapsed, (calls(client) - commands) / elapsed
            lateness = _lateness(client, producer)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return {
        "workers": count,
        "queued": queued,
        "server_cpu_percent": round(100 * cpu, 2),
        "commands_per_worker_and_second": round(rate / count, 2),
        "deadline_late_s": round(max(lateness), 2),
    }


def _shares(count: int) -> list[int]:
    whole, rest = divmod(count, LOOPS_A_PROCESS)
    return [LOOPS_A_PROCESS] * whole + ([rest] if rest else [])


def start_loops(url: str, loops: int) -> subprocess.Popen[bytes]:
    """A process with the upkeep loops of so many workers."""
    command = [sys.executable, "-m", "tests.benchmarks.upkeep", "--loops", str(loops), "--url", url]
    return subprocess.Popen(command)


def _wait_for_beats(client: redis.Redis, count: int) -> None:
    while client.zcard(Keys().beats) < count:
        time.sleep(0.1)


def _cpu_s(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _lateness(client: redis.Redis, producer: Producer) -> list[float]:
    """How long after its deadline each of some jobs has ended."""
    jobs = producer.submit_many(["late"] * LATE_JOBS, model=MODEL, queue_ttl_s=LATE_TTL_S)
    deadline = time.monotonic() + LATE_TTL_S
    waiting, ended = {Keys().result(job.job_id) for job in jobs}, []
    while waiting and time.monotonic() < deadline + 120:
        for key in [key for key in waiting if client.exists(key)]:
            waiting.discard(key)
            ended.append(time.monotonic() - deadline)
        time.sleep(0.02)
    return ended + [120.0] * len(waiting)


async def run_loops(url: str, loops: int) -> None:
    """The upkeep of so many workers, until killed."""
    async with asyncio.TaskGroup() as tasks:
        for _ in range(loops):
            tasks.create_task(_run_loop(url))
            await asyncio.sleep(0.02)


async def _run_loop(url: str) -> None:
    """What `worker.upkeep` does for one worker beside its jobs, and how it ends those that wait too long."""
    settings = WorkerSettings(model_name=MODEL, redis_url=url)
    links, outage = Links.to(url), Outage()
    worker = GenerationWorker(settings, links.rq, lambda: None)
    await asyncio.to_thread(worker.bootstrap)
    presence = Presence(
        links.presence,
        worker.keys,
        MODEL,
        worker.name,
        worker.record,
        lives=Lives(None),  # looks at processes ask Redis nothing
        ttl_s=settings.heartbeat_ttl_s,
        keep_s=settings.max_result_ttl_s,
    )
    links.on_presence.listener = presence.connected
    engine: Any = None  # no job runs here
    runner = Runner(engine, links.events, worker.keys, worker_name=worker.name, cancel_poll_s=1, live_ttl_s=60)
    registrar = Registrar(settings, worker, runner, Metrics(), outage)
    upkeep = Upkeep(settings, worker, runner, registrar, presence=presence, links=links)
    await run_beside(asyncio.Event().wait(), upkeep.side_tasks(), outage)


def show(figures: dict[str, Any]) -> None:
    """For people."""
    print(f"{figures['machine']}; {figures['server']}; commit {figures['commit']}")
    for name in ("idle_commands_per_second", "commands_per_job", "commands_in_an_append"):
        print(f"{name.replace('_', ' '):32} {figures[name]}")
    print(f"{'workers':>8} {'queued':>8} {'server CPU %':>13} {'commands/worker/s':>18} {'deadline late s':>16}")
    for row in figures["upkeep"]:
        print(
            f"{row['workers']:8} {row['queued']:8} {row['server_cpu_percent']:13} "
            f"{row['commands_per_worker_and_second']:18} {row['deadline_late_s']:16}"
        )


if __name__ == "__main__":
    main()
