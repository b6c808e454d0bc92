"""The engine against its peers, side by side in one run: `make bench-engine`, on a CPU and on a GPU.

    python -m tests.benchmarks.engine --shape qwen2-7b --device cuda:0 --dtype bfloat16 --save h100
    python -m tests.benchmarks.engine --shape qwen2-0.5b --sampling greedy --engines genqueue llama.cpp \\
        genqueue-bfloat16 llama.cpp-bfloat16 genqueue-int8 llama.cpp-q8_0 genqueue-int4 llama.cpp-q4_0
    python -m tests.benchmarks.engine --model-path FOLDER --sampling greedy --engines generate genqueue \\
        llama.cpp genqueue-drafts generate-drafts

Every engine gets the same weights and the same prompts, in turn, in the order in which they are named, round after
round. A ratio to llama.cpp is the median of those of each round, with weights as small. The last line of stdout is
one JSON object; the table before it, on stderr, is for people. `--save NAME` keeps the object in results/.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel

from worker.engine import resolve_device
from worker.engine_options import Weights

from .bandwidth import measure_bandwidth
from .engine_peers import PEERS, LlamaCpp, Peer, Run
from .engine_rows import Row, common, over, place, summarize, table
from .shapes import MAX_POSITIONS, SHAPES, bytes_per_token
from .subjects import RandomWeights, Subject, TrainedModel

RESULTS = Path(__file__).parent / "results"
LLAMA_CPP = "llama.cpp"
LLAMA_CPPS = [LLAMA_CPP, *(f"{LLAMA_CPP}-{form}" for form in ("bfloat16", "q8_0", "q4_0"))]
DEFAULT = ["genqueue", "genqueue-dynamic", "generate", "generate-static", "model-loop"]


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    options = _options()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
    path = RESULTS / f"{options.save}.json"
    rows: list[Row] = []
    if options.add and path.exists():
        rows = [Row(**row) for row in json.loads(path.read_text())["rows"]]
    for subject in subjects(options):
        for row in measure_subject(subject, device, options, console):
            rows = [*(kept for kept in rows if place(kept) != place(row)), row]
            if options.save:  # after each row: a run that is cut off must not be lost
                path.write_text(json.dumps(summary(rows, device), indent=1) + "\n")
    result = summary(rows, device)
    console.print(f"{result['hardware']}: {result['bandwidth_gb_s']} GB/s")
    console.print(table(rows))
    print(json.dumps(result))


def subjects(options: argparse.Namespace) -> list[Subject]:
    """What was asked for."""
    longest = max(options.prompt_tokens) + options.new_tokens
    positions = max(MAX_POSITIONS, -(-longest // 256) * 256)
    shapes = options.shape or ([] if options.model_path else ["tiny", "qwen2-0.5b"])
    return [
        *(RandomWeights(shape, positions) for shape in shapes),
        *(TrainedModel(folder) for folder in options.model_path),
    ]


def summary(rows: list[Row], device: torch.device) -> dict[str, Any]:
    """What is printed and kept."""
    return {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "bandwidth_gb_s": round(statistics.median(row.bandwidth_gb_s for row in rows), 2),
        "rows": [asdict(row) for row in rows],
    }


def measure_subject(
    subject: Subject, device: torch.device, options: argparse.Namespace, console: Console
) -> Iterator[Row]:
    """All rows of one model."""
    dtype = getattr(torch, options.dtype)
    peers = make_peers(subject, device, dtype, options)
    for name, peer in peers.items():
        console.print(f"{subject.name}: warming up {name}")
        peer.warm_up()
        if peer.note:
            console.print(f"{name}: {peer.note}")
    for prompt_tokens in options.prompt_tokens:
        for sampling in options.sampling:
            prompt = subject.prompt(prompt_tokens)
            runs, peaks, bandwidths = measure_in_turn(peers, prompt, sampling == "sampled", options, device)
            reference = next(iter(runs.values()))[-1].tokens
            for name, own in runs.items():
                peer = peers[name]
                weights, kept = peer.read_as or (peer.form, peer.dtype or dtype)
                read = bytes_per_token(subject.config, kept, prompt_tokens + options.new_tokens // 2, weights)
                comparable = sampling == "greedy" and subject.trained
                yield Row(
                    engine=name,
                    shape=subject.name,
                    device=str(device),
                    dtype=", ".join(filter(None, [str(peer.dtype or dtype).removeprefix("torch."), peer.form])),
                    prompt_tokens=prompt_tokens,
                    sampling=sampling,
                    bandwidth_gb_s=round(statistics.median(bandwidths) / 1e9, 2),
                    same_tokens=common(reference, own[-1].tokens) if comparable else None,
                    peak_bytes=peaks[name],
                    note=peer.note,
                    **over(own, runs.get(rival(peer, peers))),
                    **summarize(own, [read / bandwidth for bandwidth in bandwidths]),
                )
    for peer in peers.values():
        peer.close()
    peers.clear()
    gc.collect()
    torch._dynamo.reset()


def rival(peer: Peer, peers: dict[str, Peer]) -> str:
    """llama.cpp with weights as small; an empty name where it takes no part, or is this peer."""
    for name, other in peers.items():
        alike = (other.dtype, other.weights) == (peer.dtype, peer.weights)
        if alike and isinstance(other, LlamaCpp) and other is not peer:
            return name
    return ""


def make_peers(
    subject: Subject, device: torch.device, dtype: torch.dtype, options: argparse.Namespace
) -> dict[str, Peer]:
    """Those that were asked for and can be had; all that are of one form share their weights."""
    model: Callable[[Weights, torch.dtype], PreTrainedModel] = cache(
        lambda weights, own: subject.model(device, own, weights)
    )
    torch._dynamo.config.recompile_limit = 8 * len(options.engines)  # a process has one engine else
    peers: dict[str, Peer] = {}
    for name in options.engines:
        if name in PEERS:
            peer = PEERS[name]
            peers[name] = peer(model(peer.weights, peer.dtype or dtype), subject.tokenizer, device)
            continue
        form = name.removeprefix(LLAMA_CPP).removeprefix("-")
        llama = LlamaCpp(subject.for_llama_cpp, form, dtype, options)
        if llama.available:
            peers[name] = llama
    return peers


def measure_in_turn(
    peers: dict[str, Peer], prompt: list[int], sampled: bool, options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, list[Run]], dict[str, int], list[float]]:
    """Rounds in which every engine has its turn, after one short run each that pays for what is made once.

    The bandwidth is measured in every round, too: that of a shared machine changes from minute to minute.
    """
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


# -- what it ran on


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, help="with random weights; tiny and qwen2-0.5b")
    parser.add_argument(
        "--model-path", nargs="+", type=Path, default=[], help="trained models, in place of shapes"
    )
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
    parser.add_argument(
        "--llama-files", type=Path, metavar="FOLDER", help="where what is written for llama.cpp stays"
    )
    parser.add_argument("--save", metavar="NAME", help="keep the result as tests/benchmarks/results/NAME.json")
    parser.add_argument("--add", action="store_true", help="to the rows that --save has kept before")
    return parser.parse_args()


if __name__ == "__main__":
    main()
