"""The engine against its peers, side by side in one run: `make bench-engine`, on a CPU and on a GPU.

    python -m tests.benchmarks.engine --shape qwen2-7b --device cuda:0 --dtype bfloat16 --save h100
    python -m tests.benchmarks.engine --shape qwen2-0.5b --sampling greedy --engines genqueue genqueue-bfloat16 \\
        genqueue-int8 genqueue-int4 llama.cpp llama.cpp-bfloat16 llama.cpp-q8_0 llama.cpp-q4_0

Every engine gets the same weights and the same prompts, in turn, round after round. The last line of stdout is
one JSON object; the table before it, on stderr, is for people. `--save NAME` keeps the object in results/.
"""

import argparse
import copy
import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2ForCausalLM

from worker.engine import resolve_device

from .engine_peers import PEERS, LlamaCpp, Peer, Run
from .shapes import MAX_POSITIONS, SHAPES, build, bytes_per_token
from .small_shapes import build_small

RESULTS = Path(__file__).parent / "results"
LLAMA_CPP = "llama.cpp"
LLAMA_CPPS = [LLAMA_CPP, *(f"{LLAMA_CPP}-{form}" for form in ("bfloat16", "q8_0", "q4_0"))]
DEFAULT = ["genqueue", "genqueue-dynamic", "generate", "generate-static", "model-loop"]
MEASURED_BYTES = 2**30


@dataclass(frozen=True)
class Row:
    """One engine on one prompt."""

    engine: str
    shape: str
    device: str
    dtype: str
    prompt_tokens: int
    sampling: str
    prefill_ms: float | None
    ttft_ms: float
    tokens_per_second: float
    """Median over the rounds."""
    tokens_per_second_spread: tuple[float, float]
    """Slowest and fastest round."""
    fraction_of_bandwidth: float | None
    peak_bytes: int | None
    note: str
    """How the engine ran, where it can run in more than one way."""


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    options = _options()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 140)
    rows: list[Row] = []
    bandwidths: list[float] = []
    for shape in options.shape:
        for row, measured in measure_shape(shape, device, options, console):
            rows.append(row)
            bandwidths += measured
            result = summary(rows, bandwidths, device)
            if options.save:  # after each row: a run that is cut off must not be lost
                (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"{result['hardware']}: {result['bandwidth_gb_s']} GB/s")
    console.print(table(rows))
    print(json.dumps(result))


def summary(rows: list[Row], bandwidths: list[float], device: torch.device) -> dict[str, Any]:
    """What is printed and kept."""
    return {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "bandwidth_gb_s": round(statistics.median(bandwidths) / 1e9, 2),
        "rows": [asdict(row) for row in rows],
    }


def measure_shape(
    shape: str, device: torch.device, options: argparse.Namespace, console: Console
) -> Iterator[tuple[Row, list[float]]]:
    """All rows of one shape, each with the bandwidth that was measured in its rounds, in bytes a second."""
    dtype = getattr(torch, options.dtype)
    peers = make_peers(shape, device, dtype, options)
    for name, peer in peers.items():
        console.print(f"{shape}: warming up {name}")
        peer.warm_up()
        if peer.note:
            console.print(f"{name}: {peer.note}")
    for prompt_tokens in options.prompt_tokens:
        for sampling in options.sampling:
            runs, peaks, bandwidths = measure_in_turn(peers, prompt_tokens, sampling == "sampled", options, device)
            for name in runs:
                own, small = peers[name].dtype or dtype, peers[name].weights
                read = bytes_per_token(SHAPES[shape], own, prompt_tokens + options.new_tokens // 2, small)
                row = Row(
                    engine=name,
                    shape=shape,
                    device=str(device),
                    dtype=f"{str(own).removeprefix('torch.')}{f', {small}' if small else ''}",
                    prompt_tokens=prompt_tokens,
                    sampling=sampling,
                    peak_bytes=peaks[name],
                    note=peers[name].note,
                    **summarize(runs[name], [read / bandwidth for bandwidth in bandwidths]),
                )
                yield row, bandwidths
    for peer in peers.values():
        peer.close()
    peers.clear()
    gc.collect()
    torch._dynamo.reset()


def make_peers(
    shape: str, device: torch.device, dtype: torch.dtype, options: argparse.Namespace
) -> dict[str, Peer]:
    """Those that were asked for and can be had; all that are of one form share their weights."""
    longest = max(options.prompt_tokens) + options.new_tokens
    positions = max(MAX_POSITIONS, -(-longest // 256) * 256)

    @cache
    def model(form: str | None, own: torch.dtype) -> Qwen2ForCausalLM:
        if form is None:
            return build(shape, device, own, positions=positions)
        config = copy.deepcopy(SHAPES[shape])
        config.max_position_embeddings = positions
        return build_small(config, device, own, form)

    torch._dynamo.config.recompile_limit = 8 * len(options.engines)  # a process has one engine else
    peers = {
        name: peer(model(peer.weights, peer.dtype or dtype), device)
        for name, peer in PEERS.items()
        if name in options.engines
    }
    for name in options.engines:
        if name.startswith(LLAMA_CPP):
            form = name.removeprefix(LLAMA_CPP).removeprefix("-") or options.dtype
            llama = LlamaCpp(shape, form, torch.get_num_threads(), options.llama_python)
            if llama.available:
                peers[name] = llama
    return peers


def measure_in_turn(
    peers: dict[str, Peer], prompt_tokens: int, sampled: bool, options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, list[Run]], dict[str, int], list[float]]:
    """Rounds in which every engine has its turn, after one short run each that pays for what is made once.

    The bandwidth is measured in every round, too: that of a shared machine changes from minute to minute.
    """
    vocabulary = min(config.vocab_size for config in SHAPES.values()) - 8
    prompt = random.Random(prompt_tokens).choices(range(8, vocabulary), k=prompt_tokens)
    able = {name: peer for name, peer in peers.items() if not (sampled and isinstance(peer, LlamaCpp))}
    runs: dict[str, list[Run]] = {name: [] for name in able}
    peaks = dict.fromkeys(able, 0)
    bandwidths = []
    for peer in able.values():
        peer.run(
            prompt, options.new_tokens if peer.made_for_length else min(options.new_tokens, 8), sampled=sampled
        )
    for _ in range(options.rounds):
        bandwidths.append(measure_bandwidth(device))
        for name, peer in able.items():
            peak = watch_peak(device)
            runs[name].append(peer.run(prompt, options.new_tokens, sampled=sampled))
            peaks[name] = max(peaks[name], runs[name][-1].peak_bytes or peak())
    return runs, peaks, bandwidths


def summarize(runs: list[Run], seconds_per_token: list[float]) -> dict[str, Any]:
    """Medians.  seconds_per_token: what reading weights and cache takes at the bandwidth of each round."""
    speeds = [run.tokens_per_second for run in runs]
    prefills = [run.prefill_s for run in runs if run.prefill_s is not None]
    fractions = [speed * seconds for speed, seconds in zip(speeds, seconds_per_token, strict=True)]
    return {
        "prefill_ms": round(statistics.median(prefills) * 1000, 3) if prefills else None,
        "ttft_ms": round(statistics.median(run.first_token_s for run in runs) * 1000, 3),
        "tokens_per_second": round(statistics.median(speeds), 2),
        "tokens_per_second_spread": (round(min(speeds), 2), round(max(speeds), 2)),
        "fraction_of_bandwidth": round(statistics.median(fractions), 3),
    }


# -- what it ran on


def measure_bandwidth(device: torch.device) -> float:
    """Bytes a second: of a copy within a GPU, which reads and writes; of a read by all threads of a CPU."""
    source = torch.ones(MEASURED_BYTES // 4, device=device)
    if device.type == "cuda":
        target = torch.empty_like(source)

        def once() -> None:
            target.copy_(source)
            torch.cuda.synchronize(device)

        return 2 * MEASURED_BYTES / fastest(once, 20)
    return MEASURED_BYTES / fastest(source.sum, 10)


def fastest(action: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(times):
        started_at = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started_at)
    return best


def watch_peak(device: torch.device) -> Callable[[], int]:
    """From now on.  Returns what tells the peak: of allocated memory on a GPU, of resident memory on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory: man 5 proc
    return lambda: 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def hardware(device: torch.device) -> str:
    """The GPU, or the CPU and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{(names or [platform.machine()])[0]}, {len(os.sched_getaffinity(0))} cores"


def versions() -> dict[str, str]:
    """Of what decides the speed."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")} | {
        "python": platform.python_version()
    }


def commit() -> str:
    """What COMMIT says, for files without their history; else the commit, marked where files differ from it."""
    if told := os.environ.get("COMMIT"):
        return told
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def table(rows: list[Row]) -> Table:
    """For people."""
    shown = Table(
        "engine",
        "shape",
        "dtype",
        "prompt",
        "sampling",
        "ttft ms",
        "tokens/s",
        "spread",
        "of bandwidth",
        "peak GB",
    )
    for row in rows:
        low, high = row.tokens_per_second_spread
        shown.add_row(
            *(row.engine, row.shape, row.dtype, str(row.prompt_tokens), row.sampling),
            *(f"{row.ttft_ms:.1f}", f"{row.tokens_per_second:.1f}", f"{low:.1f}-{high:.1f}"),
            f"{row.fraction_of_bandwidth:.0%}" if row.fraction_of_bandwidth is not None else "",
            f"{row.peak_bytes / 1e9:.2f}" if row.peak_bytes else "",
        )
    return shown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["tiny", "qwen2-0.5b"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--prompt-tokens", nargs="+", type=int, default=[32, 512])
    parser.add_argument("--sampling", nargs="+", choices=["greedy", "sampled"], default=["greedy", "sampled"])
    parser.add_argument("--engines", nargs="+", choices=[*PEERS, *LLAMA_CPPS], default=DEFAULT)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads of torch and of llama.cpp")
    parser.add_argument(
        "--llama-python", default=sys.executable, help="a Python that has llama-cpp-python and gguf"
    )
    parser.add_argument("--save", metavar="NAME", help="keep the result as tests/benchmarks/results/NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
