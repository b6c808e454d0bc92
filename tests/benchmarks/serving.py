"""Served against bare, and against a peer written in an hour, on the tiny model, in one run.

    make bench            or: python -m tests.benchmarks.serving [--rounds 7] [--tokens 400]

One live subscriber listens on the job's Pub/Sub channel, ours and the peer's alike. The rounds take turns, so that
the noise of the machine falls on all alike; ratios are medians of the rounds' ratios. A control measures the bare
engine beside a process that keeps another core half busy and has nothing to do with it: where cores share caches
or clocks, or are virtual ones of one real core, that alone costs speed. The last line of stdout is one JSON
object; the raw figures go to tests/benchmarks/results/serving.json.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis
import torch
from rich.console import Console
from rich.table import Table
from rq import Queue

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from worker.models.config_loader import locate_model

from . import peer
from .engine import commit, hardware, versions

PROMPT = "你好，介绍一下你自己"
MODEL_PATHS = Path("configs/model_paths.yaml")
RESULTS = Path(__file__).parent / "results" / "serving.json"
MODEL = "tiny, float32, 1 thread, greedy"


@dataclass
class Seen:
    """What a subscriber saw of one job: a time for each token, in `time.monotonic()` seconds."""

    at: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return (len(self.at) - 1) / (self.at[-1] - self.at[0])


class Subscriber:
    """A live subscriber: one Pub/Sub connection, one channel a job."""

    def __init__(self, client: redis.Redis) -> None:
        self._pubsub = client.pubsub()
        self._pubsub.psubscribe("gen:*:tokens", "peer:*")

    def follow(self, jobs: int) -> list[Seen]:
        """See that many jobs from their first token to their end, one after another."""
        seen = [Seen()]
        for message in self._pubsub.listen():
            now = time.monotonic()
            if message["type"] != "pmessage":
                continue
            data = json.loads(message["data"])
            data = data.get("data", data) if data.get("type") == "tokens" else data
            seen[-1].at += [now] * len(data.get("ids", ()))
            if data.get("end") or data.get("type") == "finished":
                if len(seen) == jobs:
                    break
                seen.append(Seen())
        return seen


class Ours:
    """The worker of this repository."""

    def __init__(self, url: str, client: redis.Redis) -> None:
        self.client, self.producer = client, Producer(url)

    def submit(self, tokens: int) -> str:
        # Without drafts: the text goes round in circles, and most tokens would come eight at a time.
        job = self.producer.submit(
            PROMPT, model="tiny", max_new_tokens=tokens, ignore_eos=True, prompt_lookup=False
        )
        return job.job_id

    def sampled_at(self, job_id: str) -> list[float]:
        """When the engine sampled each token."""
        self.producer.result(job_id)
        deadline = time.monotonic() + 5
        while not (trace := self.client.lrange(f"trace:{job_id}", 0, -1)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return [float(moment) for moment in trace]

    def bytes_per_token(self, job_id: str, tokens: int) -> float:
        """Redis memory of the job's stream and result, a token."""
        keys = (f"gen:{{{job_id}}}:events", f"gen:{{{job_id}}}:result")
        return sum(self.client.memory_usage(key, samples=0) for key in keys) / tokens


class Peer:
    """The peer."""

    def __init__(self, client: redis.Redis) -> None:
        self.queue = Queue(peer.QUEUE, connection=client)

    def submit(self, tokens: int) -> str:
        return str(self.queue.enqueue("tests.benchmarks.peer.generate", PROMPT, tokens).id)


@contextlib.contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A child of this benchmark, ended with it. One torch thread each: there are two cores for three."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", *arguments], text=True, env=environment, start_new_session=True, **options
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


NEIGHBOUR = """
import time
while True:
    until = time.perf_counter() + 0.0005
    while time.perf_counter() < until:
        pass
    time.sleep(0.0005)
"""


@contextlib.contextmanager
def half_busy_neighbour() -> Iterator[None]:
    """Another core works half of the time, on nothing of ours: about what worker, server and subscriber need."""
    spinning = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        time.sleep(0.1)  # until it spins: it says nothing
        yield
    finally:
        spinning.kill()
        spinning.wait()


class Bench:
    """The contestants, started and warm."""

    def __init__(self, url: str, bare: subprocess.Popen[str]) -> None:
        self.client = redis.Redis.from_url(url)
        self.ours, self.peer, self._bare = Ours(url, self.client), Peer(self.client), bare
        self.subscriber = Subscriber(redis.Redis.from_url(url, socket_timeout=60))

    def bare(self, tokens: int) -> float:
        """Tokens per second of the engine alone."""
        assert self._bare.stdin is not None
        assert self._bare.stdout is not None
        self._bare.stdin.write(f"{tokens}\n")
        self._bare.stdin.flush()
        return float(self._bare.stdout.readline())

    def warm_up(self) -> None:
        """Wait until each has answered once."""
        self.bare(20)
        for contestant in (self.ours, self.peer):
            contestant.submit(20)
            self.subscriber.follow(1)

    def speed(self, tokens: int) -> dict[str, Any]:
        """One round: bare, served, peer, and bare again, so that a drift of the machine shows."""
        before = self.bare(tokens)
        job_id = self.ours.submit(tokens)
        [served] = self.subscriber.follow(1)
        after = self.bare(tokens)
        with half_busy_neighbour():
            beside = self.bare(tokens)
        self.peer.submit(tokens)
        [by_peer] = self.subscriber.follow(1)
        sampled = self.ours.sampled_at(job_id)
        return {
            "bare": (before + after) / 2,
            "bare_beside_neighbour": beside,
            "served": served.tokens_per_second,
            "peer": by_peer.tokens_per_second,
            "latency_ms": [(seen - made) * 1000 for seen, made in zip(served.at, sampled, strict=True)],
            "bytes_per_token": self.ours.bytes_per_token(job_id, tokens),
        }

    def gaps_ms(self, contestant: Ours | Peer, jobs: int) -> list[float]:
        """From the last token of a job to the first of the next, prefill included, with jobs waiting in line."""
        for _ in range(jobs):
            contestant.submit(8)
        seen = self.subscriber.follow(jobs)
        return [(after.at[0] - before.at[-1]) * 1000 for before, after in pairwise(seen)]

    def first_token_ms(self, contestant: Ours | Peer) -> float:
        """From submit to the first token at the subscriber, with an idle worker."""
        time.sleep(0.3)  # until the worker waits for work again: that is what is measured
        submitted = time.monotonic()
        contestant.submit(2)
        [seen] = self.subscriber.follow(1)
        return (seen.at[0] - submitted) * 1000

    def prefill_ms(self) -> float:
        """Prefill of our worker, for the same prompt."""
        job_id = self.ours.submit(2)
        self.subscriber.follow(1)
        return self.ours.producer.result(job_id).timings.prefill_ms or 0.0


def measure(bench: Bench, rounds: int, tokens: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All figures, and the raw rounds."""
    speeds = [bench.speed(tokens) for _ in range(rounds)]
    latencies = sorted(latency for each in speeds for latency in each["latency_ms"])
    gaps = bench.gaps_ms(bench.ours, 20), bench.gaps_ms(bench.peer, 20)
    first = [(bench.first_token_ms(bench.ours), bench.first_token_ms(bench.peer)) for _ in range(rounds)]
    prefill = statistics.median(bench.prefill_ms() for _ in range(rounds))
    summary = {
        "served_over_bare": statistics.median(each["served"] / each["bare"] for each in speeds),
        "bare_beside_neighbour_over_bare": statistics.median(
            each["bare_beside_neighbour"] / each["bare"] for each in speeds
        ),
        "tokens_per_second": statistics.median(each["served"] for each in speeds),
        "bare_tokens_per_second": statistics.median(each["bare"] for each in speeds),
        "peer_tokens_per_second": statistics.median(each["peer"] for each in speeds),
        "publish_latency_ms_p50": latencies[len(latencies) // 2],
        "publish_latency_ms_p99": latencies[len(latencies) * 99 // 100],
        "gap_ms_median": statistics.median(gaps[0]),
        "peer_gap_ms_median": statistics.median(gaps[1]),
        "ttft_overhead_ms_median": statistics.median(ours for ours, _ in first) - prefill,
        "peer_ttft_overhead_ms_median": statistics.median(theirs for _, theirs in first) - prefill,
        "bytes_per_token": statistics.median(each["bytes_per_token"] for each in speeds),
    }
    return {key: round(value, 3) for key, value in summary.items()}, speeds


def show(summary: dict[str, Any], console: Console) -> None:
    """The table for people."""
    table = Table(title="tiny model, one live subscriber, medians")
    for column, justify in (("", "left"), ("genqueue", "right"), ("bare (control)", "right"), ("peer", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    rows = (
        ("tokens/s", "tokens_per_second", "bare_tokens_per_second", "peer_tokens_per_second"),
        ("over the bare engine's", "served_over_bare", "bare_beside_neighbour_over_bare", None),
        ("publish latency p50, ms", "publish_latency_ms_p50", None, None),
        ("publish latency p99, ms", "publish_latency_ms_p99", None, None),
        ("gap between jobs, ms", "gap_ms_median", None, "peer_gap_ms_median"),
        ("first token beyond prefill, ms", "ttft_overhead_ms_median", None, "peer_ttft_overhead_ms_median"),
        ("Redis bytes a token", "bytes_per_token", None, None),
    )
    for title, *keys in rows:
        table.add_row(title, *(f"{summary[key]:.3g}" if key else "" for key in keys))
    console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=400)
    options = parser.parse_args()
    folder = str(locate_model("tiny", MODEL_PATHS))
    worker = ("tests.benchmarks.traced_worker", "run", "--model-name", "tiny", "--device", "cpu", "--threads", "1")
    with (
        EmbeddedBroker() as broker,
        process("tests.benchmarks.bare", folder, PROMPT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare,
        process(*worker, "--redis-url", broker.url, "--log-level", "warning"),
        process("tests.benchmarks.peer", broker.url, folder),
    ):
        bench = Bench(broker.url, bare)
        bench.warm_up()
        summary, raw = measure(bench, options.rounds, options.tokens)
        bench.ours.producer.close()
    machine = {
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
        "model": MODEL,
    }
    RESULTS.write_text(json.dumps({**machine, "summary": summary, "rounds": raw}, indent=1) + "\n")
    show(summary, Console(stderr=True))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
