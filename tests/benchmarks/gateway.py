"""Open streams through one gateway: from the worker's append to the client's socket.

    python -m tests.benchmarks.gateway [--streams 1000] [--rate 300] [--seconds 20] [--beside CHECKOUT --rounds 3]

A simulated worker appends tokens to all streams in turn, so many a second in all; each says when. Then the rate is
raised, half as much again each time, for as long as the 99th percentile stays below 50 ms. Then some clients read
nothing while their streams go on: what they cost, and whether they have it all once they read. With --beside,
another checkout's gateway takes turns with this one.

Server, gateway, worker and clients are a process each on this machine: what is measured is all of them, on its
cores. The last line of stdout is JSON.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import redis
from rich.console import Console
from rich.table import Table

from producer.broker.embedded import EmbeddedBroker
from producer.contract import BEFORE_FIRST, Entry, EventId, Keys, Started, StartedData, Tokens, TokensData
from producer.ledger.step import Step, script
from producer.ledger.stream import Appender
from tests.instant_worker import InstantWorker

HERE = Path(__file__).parents[2]
KEEP_S = 600
P99_MS = 50.0
"""What the highest rate is to keep."""
STEP = 1.5
SLOW_STREAMS = 20
SLOW_TOKENS = 4000
"""For each of them: more than its socket and its inbox hold."""
AT_ONCE = 200
"""Appends in one round trip, at most."""
MOST_S = 120.0


class Writer:
    """The simulated worker: appends tokens to all its jobs in turn, on a thread."""

    def __init__(self, client: redis.Redis, job_ids: list[str]) -> None:
        self._client, self._jobs = client, deque(job_ids)
        self._last = dict.fromkeys(job_ids, BEFORE_FIRST)
        for job_id in job_ids:
            said = StartedData(attempt=1, worker="w", model="tiny", prompt_tokens=1, seed=7)
            self._step(job_id, Started(data=said)).run(client)

    def _step(self, job_id: str, event: Started | Tokens) -> Step[Any]:
        last = self._last[job_id]
        event_id = self._last[job_id] = EventId(1, last.seq + 1 if last.attempt else 0)
        appender = Appender(Keys(), job_id, "w", as_owner=False)
        return appender.append(last, [Entry.of(event_id, event)], ttl_s=KEEP_S)

    def append(self, count: int) -> None:
        """So many tokens, each to the next job, in one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        for _ in range(count):
            job_id = self._jobs[0]
            self._jobs.rotate(-1)
            token = Tokens(data=TokensData(index=self._last[job_id].seq, ids=(1,), text=f"{time.monotonic_ns()}."))
            step = self._step(job_id, token)
            pipeline.evalsha(script(step.name).sha, len(step.keys), *step.keys, *step.args)
        pipeline.execute()

    @contextlib.contextmanager
    def writing(self, rate: float) -> Iterator[None]:
        """So many tokens a second, while the block lasts."""
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(rate, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _run(self, rate: float, over: threading.Event) -> None:
        began, written = time.monotonic(), 0
        while not over.wait(max(0.0, began + written / rate - time.monotonic())):
            due = int((time.monotonic() - began) * rate) + 1 - written
            self.append(min(max(1, due), AT_ONCE))
            written += min(max(1, due), AT_ONCE)


class Contestant:
    """A checkout's gateway with all its streams open."""

    def __init__(self, checkout: Path, streams: int, stack: contextlib.ExitStack) -> None:
        self._streams = streams
        self._client = redis.Redis.from_url(stack.enter_context(EmbeddedBroker()).url)
        InstantWorker(self._client).register()
        port = self._serve(checkout, stack)
        command = [sys.executable, "-m", "tests.benchmarks.gateway_clients", str(port)]
        self._clients = stack.enter_context(
            _process(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        before = self._process.memory_info().rss
        self._writer = Writer(self._client, self._open("open", streams))
        while self._ask("report")["begun"] < streams:
            time.sleep(0.2)
        time.sleep(1)
        self.kib_per_stream = (self._process.memory_info().rss - before) / 1024 / streams

    def _serve(self, checkout: Path, stack: contextlib.ExitStack) -> int:
        address = self._client.connection_pool.connection_kwargs
        url = f"redis://{address['host']}:{address['port']}/0"
        command = [sys.executable, "-m", "producer", "serve", "--port", "0", "--redis-url", url]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        gateway = stack.enter_context(_process(command, cwd=checkout, env=environment, stderr=subprocess.PIPE))
        assert gateway.stderr is not None
        said = gateway.stderr.readline()
        self._process = psutil.Process(gateway.pid)
        return int(said.rpartition(":")[2].removesuffix("/v1\n"))

    def _ask(self, *command: object) -> Any:
        self._clients.stdin.write(json.dumps(command) + "\n")
        self._clients.stdin.flush()
        return json.loads(self._clients.stdout.readline())

    def _open(self, kind: str, count: int) -> list[str]:
        """So many streams more. The ids of their jobs."""
        queue = "rq:queue:generate.tiny"
        before = self._client.llen(queue)
        self._ask(kind, count)
        while self._client.llen(queue) < before + count:
            time.sleep(0.05)
        return [raw.decode() for raw in self._client.lrange(queue, before, -1)]

    def run(self, rate: float, seconds: float) -> dict[str, float]:
        """At that rate, for so long, once it has settled."""
        with self._writer.writing(rate):
            time.sleep(min(2.0, seconds / 2))
            self._ask("clear")
            cpu_s = sum(self._process.cpu_times()[:2])
            time.sleep(seconds)
            cpu_s = sum(self._process.cpu_times()[:2]) - cpu_s
            seen = self._ask("report")
        return {
            "p50_ms": seen["p50_ms"],
            "p99_ms": seen["p99_ms"],
            "cpu_us_per_token": round(1e6 * cpu_s / seen["tokens"]),
            "cpu_share": round(cpu_s / seconds, 3),
            "kept_up": round(seen["tokens"] / seconds / rate, 3),
            "faults": seen["faults"],
        }

    def highest_rate(self, rate: float, seconds: float) -> dict[str, float]:
        """The highest that keeps the 99th percentile, and how it does."""
        best: dict[str, float] = {"rate": 0}
        while (seen := self.run(rate, seconds))["p99_ms"] <= P99_MS and seen["kept_up"] > 0.95:
            best, rate = {"rate": round(rate), **seen}, rate * STEP
        return best

    def connections(self) -> dict[str, int]:
        """Of the gateway to Redis: those that listen, those that are blocked in a read, and all."""
        ours = {each.laddr.port for each in self._process.net_connections("tcp") if each.status == "ESTABLISHED"}
        clients = [each for each in self._client.client_list() if int(each["addr"].rpartition(":")[2]) in ours]
        listening = sum(int(each["sub"]) > 0 for each in clients)
        return {
            "listening": listening,
            "blocked": sum("b" in each["flags"] for each in clients),
            "all": len(clients),
        }

    def slow_readers(self) -> dict[str, float]:
        """Clients that read nothing while their streams go on, and then all of it."""
        writer = Writer(self._client, self._open("open_slow", SLOW_STREAMS))
        before = self._process.memory_info().rss
        for _ in range(SLOW_STREAMS * SLOW_TOKENS // AT_ONCE):
            writer.append(AT_ONCE)
        time.sleep(2)
        grown = self._process.memory_info().rss - before
        self._ask("read_slow")
        deadline = time.monotonic() + MOST_S
        while (seen := min(self._ask("report")["slow_events"])) < SLOW_TOKENS + 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        return {
            "streams": SLOW_STREAMS,
            "tokens_each": SLOW_TOKENS,
            "kib_each": round(grown / 1024 / SLOW_STREAMS),
            "lost": max(0, SLOW_TOKENS + 1 - seen),
            "faults": self._ask("report")["faults"],
        }


@contextlib.contextmanager
def _process(command: list[str], **options: Any) -> Iterator[Any]:
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def measure(checkout: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one round."""
    with contextlib.ExitStack() as stack:
        contestant = Contestant(checkout, options.streams, stack)
        return {
            "rate": options.rate,
            **contestant.run(options.rate, options.seconds),
            "kib_per_stream": round(contestant.kib_per_stream, 1),
            "connections": contestant.connections(),
            "highest": contestant.highest_rate(options.rate, min(5.0, options.seconds)),
            "slow": contestant.slow_readers(),
        }


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--beside", type=Path, default=None, help="another checkout of this project")
    options = parser.parse_args()
    checkouts = {"this": HERE, **({"beside": options.beside.resolve()} if options.beside else {})}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    shown = Table("checkout", "p50", "p99", "CPU a token", "a stream", "highest rate", "slow: each", "lost")
    for _ in range(options.rounds):
        for name, checkout in checkouts.items():
            seen = measure(checkout, options)
            rows[name].append(seen)
            slow = seen["slow"]
            shown.add_row(
                name,
                f"{seen['p50_ms']} ms",
                f"{seen['p99_ms']} ms",
                f"{seen['cpu_us_per_token']} µs",
                f"{seen['kib_per_stream']} KiB",
                f"{seen['highest']['rate']}/s",
                f"{slow['kib_each']} KiB",
                f"{slow['lost']}",
            )
    Console(stderr=True).print(shown)
    print(json.dumps({"streams": options.streams, **rows}))


if __name__ == "__main__":
    main()
