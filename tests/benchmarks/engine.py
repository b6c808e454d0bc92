"""The engine against its peers, side by side in one run: `make bench-engine`, on a CPU and on a GPU.

    python -m tests.benchmarks.engine --shape qwen2-7b --device cuda:0 --dtype bfloat16 --save h100

Every engine gets the same weights and the same prompts, in turn, round after round. The last line of stdout is
one JSON object; the table before it, on stderr, is for people. `--save NAME` keeps the object in results/.
"""

import argparse
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
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from worker.engine import resolve_device

from .engine_peers import PEERS, Peer, Run
from .shapes import SHAPES, build, bytes_per_token

RESULTS = Path(__file__).parent / "results"
LLAMA_CPP = "llama.cpp"
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


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    options = _options()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 140)
    bandwidth = measure_bandwidth(device)
    console.print(f"{hardware(device)}: {bandwidth / 1e9:.1f} GB/s")
    rows = [row for shape in options.shape for row in measure_shape(shape, device, bandwidth, options, console)]
    result = {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "bandwidth_gb_s": round(bandwidth / 1e9, 2),
        "rows": [asdict(row) for row in rows],
    }
    console.print(table(rows))
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def measure_shape(
    shape: str, device: torch.device, bandwidth: float, options: argparse.Namespace, console: Console
) -> Iterator[Row]:
    """All rows of one shape, on one set of weights."""
    dtype = getattr(torch, options.dtype)
    own = [name for name in options.engines if name in PEERS]
    if own:
        model = build(shape, device, dtype)
        peers = {name: PEERS[name](model, device) for name in own}
        for name, peer in peers.items():
            console.print(f"{shape}: warming up {name}")
            peer.warm_up()
        for prompt_tokens in options.prompt_tokens:
            for sampling in options.sampling:
                runs, peaks = measure_in_turn(peers, prompt_tokens, sampling == "sampled", options, device)
                read = bytes_per_token(SHAPES[shape], dtype, prompt_tokens + options.new_tokens // 2)
                for name in own:
                    yield Row(
                        engine=name,
                        shape=shape,
                        device=str(device),
                        dtype=options.dtype,
                        prompt_tokens=prompt_tokens,
                        sampling=sampling,
                        peak_bytes=peaks[name],
                        **summarize(runs[name], read / bandwidth),
                    )
        del model, peers
        gc.collect()
        torch._dynamo.reset()
    if LLAMA_CPP in options.engines:
        yield from llama_cpp_rows(shape, bandwidth, options)


def measure_in_turn(
    peers: dict[str, Peer], prompt_tokens: int, sampled: bool, options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, list[Run]], dict[str, int]]:
    """Rounds in which every engine has its turn, after one short run each that pays for what is made once."""
    vocabulary = min(config.vocab_size for config in SHAPES.values()) - 8
    prompt = random.Random(prompt_tokens).choices(range(8, vocabulary), k=prompt_tokens)
    runs: dict[str, list[Run]] = {name: [] for name in peers}
    peaks = dict.fromkeys(peers, 0)
    for peer in peers.values():
        peer.run(prompt, min(options.new_tokens, 8), sampled=sampled)
    for _ in range(options.rounds):
        for name, peer in peers.items():
            peak = watch_peak(device)
            runs[name].append(peer.run(prompt, options.new_tokens, sampled=sampled))
            peaks[name] = max(peaks[name], peak())
    return runs, peaks


def summarize(runs: list[Run], seconds_per_token: float) -> dict[str, Any]:
    """Medians.  seconds_per_token: what reading the weights and the cache takes at the measured bandwidth."""
    speeds = [run.tokens_per_second for run in runs]
    prefills = [run.prefill_s for run in runs if run.prefill_s is not None]
    speed = statistics.median(speeds)
    return {
        "prefill_ms": round(statistics.median(prefills) * 1000, 3) if prefills else None,
        "ttft_ms": round(statistics.median(run.first_token_s for run in runs) * 1000, 3),
        "tokens_per_second": round(speed, 2),
        "tokens_per_second_spread": (round(min(speeds), 2), round(max(speeds), 2)),
        "fraction_of_bandwidth": round(speed * seconds_per_token, 3),
    }


def llama_cpp_rows(shape: str, bandwidth: float, options: argparse.Namespace) -> Iterator[Row]:
    """llama.cpp in a process of its own, with the Python that has it (`--llama-python`); greedy only."""
    command = [options.llama_python, "-m", "tests.benchmarks.llama_cpp_peer", "--prompt-tokens"]
    command += map(str, options.prompt_tokens)
    arguments = {
        "--shape": shape,
        "--dtype": options.dtype,
        "--new-tokens": options.new_tokens,
        "--threads": torch.get_num_threads(),
        "--repeats": options.rounds,
    }
    command += [str(part) for pair in arguments.items() for part in pair]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"llama.cpp is left out: it ended with {done.returncode}", file=sys.stderr)
        return
    dtype = getattr(torch, options.dtype)
    for said in json.loads(done.stdout.splitlines()[-1])["rows"]:
        read = bytes_per_token(SHAPES[shape], dtype, said["prompt_tokens"] + options.new_tokens // 2)
        yield Row(
            **{name: said[name] for name in Row.__dataclass_fields__ if name in said},
            tokens_per_second_spread=said["tokens_per_second_range"],
            fraction_of_bandwidth=round(said["tokens_per_second"] * read / bandwidth, 3),
        )


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
    return MEASURED_BYTES / fastest(source.sum, 20)


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
    """The commit, marked where files differ from it; "unknown" outside of a checkout."""
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
    parser.add_argument("--engines", nargs="+", choices=[*PEERS, LLAMA_CPP], default=list(PEERS))
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
