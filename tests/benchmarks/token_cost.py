"""What a token costs outside the engine: processor time of worker, server and subscriber, and delay on the way.

    python -m tests.benchmarks.token_cost [--step-ms 1 4 16] [--tokens 1000] [--rounds 3] [--beside CHECKOUT]
    python -m tests.benchmarks.token_cost --model FOLDER --device cuda:0    # a real device, at its own pace

The real worker serves the tiny model at the pace of a device that takes so long a step: 1 ms is faster than any
card with a 7B model, 4 ms is an H100, 16 ms a 24 GB card. One subscriber follows each job's stream. With --beside,
another checkout of this project takes turns with this one.

served/bare: tokens a second as the subscriber saw them, over those of the device alone (of a real one: over those
that the engine read off it in the same job). cards/core: how many such
devices one core of the host serves, worker and server together. The last line of stdout is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.models import tiny_model_paths

HERE = Path(__file__).parents[2]
PACING = Path(__file__).parent / "pacing"
SUBSCRIBER = Path(__file__).parent / "token_subscriber.py"
PARTS = ("worker", "server", "subscriber", "engine")


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads that live, in seconds."""
    spent = (path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(map(int, spent)) / 1e9


class Contestant:
    """A checkout at work: a server, a worker with its paced engine, and a subscriber."""

    def __init__(self, checkout: Path, step_ms: float, model: list[str], stack: ExitStack) -> None:
        """step_ms: 0 is the device's own pace.  model: options of the worker."""
        self.step_ms = step_ms
        self._jobs = 0
        self._broker = stack.enter_context(EmbeddedBroker())
        self._trace = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "trace"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PACING), str(checkout), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PACED_STEP_MS": str(step_ms),
            "PACED_TRACE": str(self._trace),
        }
        options = ("--redis-url", self._broker.url, *model)
        self._worker = stack.enter_context(_process(checkout, environment, "-m", "worker", "run", *options))
        self._subscriber = stack.enter_context(
            _process(checkout, environment, str(SUBSCRIBER), self._broker.url, stdin=-1, stdout=-1)
        )
        with Producer(self._broker.url) as producer:
            while not any(worker.model_state == "ready" for worker in producer.workers("tiny")):
                assert self._worker.poll() is None, "the worker has ended"
                time.sleep(0.1)
        [child] = Path(f"/proc/{self._worker.pid}/task/{self._worker.pid}/children").read_text().split()
        self._pids = {"worker": self._worker.pid, "server": self._broker.pid, "engine": int(child)}
        self.job(50)

    def job(self, tokens: int) -> dict[str, float]:
        """One job.  Microseconds a token by part, tokens an event, and what the subscriber saw."""
        self._jobs += 1
        time.sleep(0.3)  # until what a job leaves behind is done
        before = {part: cpu_s(pid) for part, pid in self._pids.items()}
        assert self._subscriber.stdin is not None
        assert self._subscriber.stdout is not None
        self._subscriber.stdin.write(f"{tokens}\n")
        self._subscriber.stdin.flush()
        seen = json.loads(self._subscriber.stdout.readline())
        spent = {part: cpu_s(pid) - before[part] for part, pid in self._pids.items()}
        spent["subscriber"] = seen["cpu_s"]
        read_at = self._read_at()
        delays = sorted((at - read) * 1000 for at, read in zip(seen["seen"], read_at, strict=True))
        bare_s = (tokens - 1) * self.step_ms / 1000 or read_at[-1] - read_at[0]
        return {
            **{f"{part}_us": spent[part] * 1e6 / tokens for part in PARTS},
            "tokens_per_event": tokens / seen["events"],
            "step_ms": bare_s * 1000 / (tokens - 1),
            "served_over_bare": bare_s / (seen["seen"][-1] - seen["seen"][0]),
            "delay_ms_p50": delays[len(delays) // 2],
            "delay_ms_p99": delays[len(delays) * 99 // 100],
        }

    def _read_at(self) -> list[float]:
        """When the device handed over each token of the last job."""
        while not self._trace.exists() or len(lines := self._trace.read_text().splitlines()) < self._jobs:
            time.sleep(0.01)
        return [float(moment) for moment in json.loads(lines[-1])]


@contextmanager
def _process(checkout: Path, environment: dict[str, str], *command: str, **options: Any) -> Iterator[Any]:
    child = subprocess.Popen(
        [sys.executable, *command], cwd=checkout, env=environment, text=True, stderr=subprocess.DEVNULL, **options
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def measure(
    checkouts: list[Path], step_ms: float, model: list[str], tokens: int, rounds: int
) -> list[dict[str, float]]:
    """Medians of each checkout, which take turns."""
    with ExitStack() as stack:
        contestants = [Contestant(checkout, step_ms, model, stack) for checkout in checkouts]
        seen: list[list[dict[str, float]]] = [[] for _ in contestants]
        for number in range(rounds):
            for at in range(len(contestants)) if number % 2 else reversed(range(len(contestants))):
                seen[at].append(contestants[at].job(tokens))
    medians = []
    for jobs in seen:
        row = {name: statistics.median(job[name] for job in jobs) for name in jobs[0]}
        row["cards_per_core"] = row["step_ms"] * 1000 / (row["worker_us"] + row["server_us"])
        medians.append({name: round(value, 3) for name, value in row.items()})
    return medians


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=Path, default=None, help="another checkout of this project")
    parser.add_argument("--model", type=Path, help="folder of a model to serve in place of the paced one")
    parser.add_argument("--device", default="cpu", help="that it runs on")
    options = parser.parse_args()
    model = ["--model-name", "tiny", "--device", options.device]
    model += ["--model-path", str(options.model)] if options.model else ["--model-paths", str(tiny_model_paths())]
    checkouts = [HERE, *([options.beside.resolve()] if options.beside else [])]
    result: dict[str, Any] = {}
    shown = Table("step", "checkout", *PARTS, "tokens/event", "served/bare", "delay p50", "p99", "cards/core")
    for step_ms in [0] if options.model else options.step_ms:
        rows = measure(checkouts, step_ms, model, options.tokens, options.rounds)
        for name, row in zip(("this", "beside"), rows, strict=False):
            spent = [f"{row[f'{part}_us']:.0f} µs" for part in PARTS]
            ratios = [f"{row['tokens_per_event']:.2f}", f"{row['served_over_bare']:.4f}"]
            delays = [f"{row[f'delay_ms_{part}']:.2f} ms" for part in ("p50", "p99")]
            shown.add_row(
                f"{row['step_ms']:.2f} ms", name, *spent, *ratios, *delays, f"{row['cards_per_core']:.1f}"
            )
        result[f"{step_ms:g} ms" if step_ms else "its own"] = dict(zip(("this", "beside"), rows, strict=False))
    Console(stderr=True).print(shown)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
