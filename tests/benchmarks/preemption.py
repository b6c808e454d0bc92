"""What it is worth that a running job makes way, and what it costs.

    python -m tests.benchmarks.preemption [--engines paced cpu] [--highs 40] [--lows 8]
    python -m tests.benchmarks.shapes qwen2-7b FOLDER --device cuda:0 --dtype bfloat16
    python -m tests.benchmarks.preemption --engines gpu --model FOLDER

A real worker, saturated with low jobs, gets a high one now and then. `paced` is the tiny model at the pace of a
device that takes 4 ms a step; `cpu` a random model of Qwen2-0.5B's shape in float32; `gpu` the model in FOLDER on
the first GPU, whose low jobs have read 4,000 tokens. For each:

first token   from `submit` to the first token at a subscriber, of high jobs: on an idle worker, on one whose low
              jobs make way (`preempt: low`), and on one whose low jobs do not (`off`)
lost          of the low jobs' throughput, beside what the high ones took: by how much longer the same low jobs
              took than alone, less the high jobs' own time, over their time alone
goes on       from the high job's last token to the low job's next one at a subscriber: from the parked cache, and
              where there is none, so that prompt and output are read again

The last line of stdout is one JSON object.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from producer import JobHandle, Producer, Tokens
from producer.broker.embedded import EmbeddedBroker
from tests.benchmarks.shapes import save
from tests.chaos.report import percentile
from tests.integration.worker_process import WorkerProcess
from tests.models import tiny_model_paths

PACING = Path(__file__).parent / "pacing"
MODEL = "tiny"
STEP_MS = 4.0


@dataclass(frozen=True)
class Load:
    """What is asked of an engine. Tokens of a prompt and of an answer."""

    low: tuple[int, int]
    high: tuple[int, int]
    every_s: float
    """Between two high jobs, on average."""


LOADS = {
    "paced": Load((200, 700), (30, 25), 1.0),
    "cpu": Load((600, 60), (20, 4), 6.0),
    "gpu": Load((4000, 700), (30, 25), 1.0),
}


class Bench:
    """One worker on a server of its own."""

    def __init__(self, url: str, load: Load, seed: int) -> None:
        self.producer = Producer(url)
        self._load = load
        self._rng = random.Random(seed)
        self._numbers = itertools.count()
        self.highs: list[tuple[float, float | None, float | None]] = []
        """Of each high job, in ms: to its first token at the subscriber, in the queue, and from there on."""

    def submit(self, priority: str) -> JobHandle:
        """A job whose prompt begins like no other."""
        prompt, answer = self._load.low if priority == "low" else self._load.high
        ids = [next(self._numbers) % 500 + 100, *self._rng.choices(range(100, 700), k=prompt - 1)]
        options: dict[str, Any] = {"max_new_tokens": answer, "ignore_eos": True, "priority": priority}
        return self.producer.submit(prompt_token_ids=ids, model=MODEL, temperature=1.0, seed=7, **options)

    def high(self) -> tuple[float, float, float]:
        """One high job: s to its first token, s from its beginning to its last token, and when that came."""
        began_at, first_at, last_at = time.monotonic(), 0.0, 0.0
        handle = self.submit("high")
        for streamed in handle.stream():
            if isinstance(streamed.event, Tokens):
                last_at = time.monotonic()
                first_at = first_at or last_at
        timings = handle.result().timings
        figures = (1000 * (first_at - began_at), timings.queued_ms, timings.time_to_first_token_ms)
        self.highs.append(tuple(figure if figure is None else round(figure, 1) for figure in figures))
        took_ms = (timings.time_to_first_token_ms or 0.0) + (timings.decode_ms or 0.0)
        return first_at - began_at, took_ms / 1000, last_at

    def idle(self, count: int) -> list[float]:
        """Seconds to the first token of high jobs that find nobody at work."""
        return [self.high()[0] for _ in range(count + 1)][1:]

    def lows(self, count: int) -> tuple[float, list[float]]:
        """That many low jobs in a row: s from the first one's first token to the last end; tokens/s of each."""
        handles = [self.submit("low") for _ in range(count)]
        self._await_first(handles[0])
        began_at = time.monotonic()
        results = [handle.result() for handle in handles]
        took_s = time.monotonic() - began_at
        return took_s, [result.timings.tokens_per_second or 0.0 for result in results]

    def beside(self, lows: int, highs: int) -> dict[str, Any]:
        """High jobs while low ones run, until the low ones have ended."""
        took: list[tuple[float, list[float], float]] = []
        running = threading.Thread(target=lambda: took.append((*self.lows(lows), time.monotonic())))
        running.start()
        time.sleep(self._load.every_s / 2)
        first: list[float] = []
        own: list[tuple[float, float]] = []
        while running.is_alive() and len(first) < highs:
            seconds, its_s, last_at = self.high()
            first.append(seconds)
            own.append((its_s, last_at))
            time.sleep(self._rng.uniform(0.5, 1.5) * self._load.every_s)
        running.join()
        took_s, speeds, ended_at = took[0]
        own_s = sum(its_s for its_s, last_at in own if last_at <= ended_at)  # the last one may have come too late
        return {"first_s": first, "own_s": own_s, "took_s": took_s, "speeds": speeds}

    def going_on(self, count: int) -> list[float]:
        """Seconds from a high job's last token to the next one of the low job that made way."""
        gaps = []
        for _ in range(count):
            low, seen = self.submit("low"), list[float]()
            follower = threading.Thread(target=self._note_tokens, args=(low, seen))
            follower.start()
            while not seen:
                time.sleep(0.001)
            _, _, last_at = self.high()
            while not (after := [at for at in seen if at > last_at]):
                time.sleep(0.001)
            gaps.append(after[0] - last_at)
            low.cancel()
            follower.join()
        return gaps

    @staticmethod
    def _note_tokens(handle: JobHandle, seen: list[float]) -> None:
        seen.extend(time.monotonic() for each in handle.stream() if isinstance(each.event, Tokens))

    @staticmethod
    def _await_first(handle: JobHandle) -> None:
        stream = handle.stream()
        next(streamed for streamed in stream if isinstance(streamed.event, Tokens))
        stream.close()


@contextmanager
def bench(engine: str, folder: Path, seed: int, **environment: str) -> Iterator[Bench]:
    """A worker of that engine at work."""
    paths = tiny_model_paths() if engine == "paced" else folder / "model_paths.yaml"
    options = ["--device", "cuda:0"] if engine == "gpu" else []
    if engine == "paced":
        environment |= {"PACED_STEP_MS": str(STEP_MS), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(PACING), str(Path.cwd())])
    log = folder / "worker.log"
    with EmbeddedBroker() as broker:
        worker = WorkerProcess(
            broker.url, paths, log, *options, **{"GENQUEUE_ENGINE__PROMPT_LOOKUP": "false", **environment}
        )
        try:
            worker.wait_until_ready()
            here = Bench(broker.url, LOADS[engine], seed)
            here.high()  # whatever the first job of a process has to wait for
            with here.producer:
                yield here
        finally:
            worker.stop()


def measure(engine: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one engine."""
    model = options.model or folder / MODEL
    if engine == "cpu":
        save("qwen2-0.5b", model, torch.device("cpu"), torch.float32, positions=2048)
    (folder / "model_paths.yaml").write_text(f"{MODEL}: {model}\n")
    seen: dict[str, Any] = {}
    goes_on: dict[str, list[float]] = {}
    with bench(engine, folder, 1) as here:
        idle, (alone_s, speeds) = here.idle(options.highs), here.lows(options.lows)
        seen["low"] = here.beside(options.lows, options.highs)
        goes_on["from the parked cache"] = here.going_on(options.pauses)
        each_high = here.highs
    if not options.brief:
        with bench(engine, folder, 1, GENQUEUE_PREEMPT="off") as here:
            seen["off"] = here.beside(options.lows, options.highs)
        nothing_kept = {"GENQUEUE_ENGINE__PARKED_CACHE_BYTES": "0", "GENQUEUE_ENGINE__PREFIX_CACHE_BYTES": "0"}
        with bench(engine, folder, 1, **nothing_kept) as here:
            goes_on["read again"] = here.going_on(options.pauses)
    step_s = 1 / statistics.median(speeds)
    return {
        "step_ms": round(step_s * 1000, 2),
        "first_token_ms": {
            "idle": spread(idle),
            **{f"preempt {name}": spread(each["first_s"]) for name, each in seen.items()},
        },
        "each_high_ms": each_high,
        "more_than_idle_p95_ms": round(1000 * (at(seen["low"]["first_s"], 95) - at(idle, 95)), 1),
        "lows_alone_s": round(alone_s, 2),
        **{f"lost_{name}": lost(each, alone_s) for name, each in seen.items()},
        "high_jobs": {name: len(each["first_s"]) for name, each in seen.items()},
        "high_jobs_took_s": round(seen["low"]["own_s"], 2),
        "goes_on_ms": {how: spread(gaps) for how, gaps in goes_on.items()},
    }


def lost(seen: dict[str, Any], alone_s: float) -> float:
    """Of the low jobs' throughput, beside what the high jobs took."""
    return round((seen["took_s"] - seen["own_s"] - alone_s) / alone_s, 4)


def at(values: list[float], percent: int) -> float:
    """A percentile."""
    return percentile([value * 1000 for value in values], percent) / 1000 if values else float("nan")  # type: ignore[operator]


def spread(values: list[float]) -> dict[str, float]:
    """In ms."""
    return {name: round(1000 * at(values, percent), 1) for name, percent in (("p50", 50), ("p95", 95))}


def main() -> None:
    """Measure, show, and print one line for programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=LOADS, default=["paced", "cpu"])
    parser.add_argument("--model", type=Path, help="folder of the model that `gpu` serves")
    parser.add_argument("--highs", type=int, default=40, help="high jobs on an idle worker; beside others at most")
    parser.add_argument("--lows", type=int, default=8, help="low jobs, alone and beside high ones")
    parser.add_argument("--pauses", type=int, default=8, help="of a low job, until it goes on")
    parser.add_argument("--brief", action="store_true", help="with `preempt: low` and a parked cache alone")
    options = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    for engine in options.engines:
        with tempfile.TemporaryDirectory(prefix="genqueue-preemption-") as folder:
            figures[engine] = measure(engine, Path(folder), options)
        for name, value in figures[engine].items():
            print(f"{engine:6} {name:24} {value}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
