"""Everything that there is to know about a GPU, in under nine minutes: `make bench-gpu`.

    python -m tests.benchmarks.gpu [--name NAME] [--weights int8|int4] [--parts WORD ...]

Kernels and engine are held against torch and transformers, a worker's engine is killed half-way through a stream,
and then speeds are taken: of the kernels, of the engine beside its peers, of what reuse and drafts save. What each
part has said is kept in results/gpu-NAME/ as it ends, and what comes out of it beside that. A part that fails or
takes too long does not keep the next one from being taken. The last line of stdout is a JSON object; the exit code
is 1 if a part has failed.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .engine import RESULTS, commit, hardware, versions

_TESTS = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
KERNELS = [f"tests/unit/worker/engine/{part}/gpu" for part in ("forward", "sampling")]
_MODEL = ["--shape", "qwen2-7b", "--device", "cuda:0", "--dtype", "bfloat16"]


@dataclass(frozen=True)
class Part:
    """A program, and the seconds that it may take."""

    name: str
    arguments: list[str]
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """Of a part. exit_code: None where it took too long."""

    name: str
    exit_code: int | None
    seconds: float


def small_parts(name: str, weights: str) -> list[Part]:
    """Of small weights alone."""
    kernels = ["tests/unit/worker/engine/forward/gpu", "-k", f"small and {weights}"]
    speed = ["--engines", f"genqueue-{weights}", "--prompt-tokens", "32", "2048", "--sampling", "greedy"]
    speed += ["--rounds", "2", "--save", f"engine-{weights}-{name}"]
    return [
        Part("kernels", [*_TESTS, *kernels], 90),
        Part("exactness", [*_TESTS, "tests/gpu/test_small_weights.py", "-k", weights], 90),
        Part("engine", ["-m", "tests.benchmarks.engine", *_MODEL, *speed], 150),
    ]


def parts(name: str) -> list[Part]:
    """In their order: what must be right comes first, and what may be left out last."""
    shortcuts = ["--shape", "qwen2-7b", "--device", "cuda:0", "--dtype", "bfloat16", "--save", f"shortcuts-{name}"]
    own = [
        "--engines",
        "genqueue",
        "generate",
        "--prompt-tokens",
        "32",
        "2048",
        "16384",
        "--save",
        f"engine-{name}",
    ]
    static = ["--engines", "genqueue", "generate-static", "--prompt-tokens", "32", "--sampling", "greedy"]
    static += ["--rounds", "2", "--save", f"engine-static-{name}"]
    structured = ["--shape", "qwen2-0.5b", "--device", "cuda:0", "--dtype", "bfloat16", "--prompts", "2"]
    structured += ["--save", f"structured-{name}"]
    return [
        Part("kernels", [*_TESTS, *KERNELS], 90),
        Part("exactness", [*_TESTS, "tests/gpu/test_exactness.py"], 150),
        Part("deterministic", [*_TESTS, "tests/gpu/test_deterministic.py"], 120),
        Part("worker", [*_TESTS, "tests/gpu/test_worker.py"], 120),
        Part("products", ["-m", "tests.benchmarks.products", "--save", f"products-{name}"], 60),
        Part("engine", ["-m", "tests.benchmarks.engine", *_MODEL, *own], 200),
        Part("shortcuts", ["-m", "tests.benchmarks.shortcuts", *shortcuts], 90),
        Part("structured", ["-m", "tests.benchmarks.structured", *structured], 90),
        Part("static", ["-m", "tests.benchmarks.engine", *_MODEL, *static], 150),
    ]


def run(part: Part, folder: Path) -> Outcome:
    """Its output goes to a file, and its last lines to stderr."""
    log = folder / f"{part.name}.log"
    started_at = time.perf_counter()
    with log.open("w") as output:
        try:
            exit_code: int | None = subprocess.run(
                [sys.executable, *part.arguments], stdout=output, stderr=output, timeout=part.limit_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            exit_code = None
    outcome = Outcome(part.name, exit_code, round(time.perf_counter() - started_at, 1))
    print(f"{outcome}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr, flush=True)
    return outcome


def main() -> None:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="of the results; else the GPU's")
    parser.add_argument("--parts", nargs="+", metavar="WORD", help="these alone")
    parser.add_argument("--weights", choices=["int8", "int4"], help="of small weights of that form alone")
    options = parser.parse_args()
    device = torch.device("cuda", 0)
    name = options.name or hardware(device).lower().replace(" ", "-")
    folder = RESULTS / "-".join(filter(None, ["gpu", options.weights, name]))
    folder.mkdir(exist_ok=True)
    outcomes: list[Outcome] = []
    summary = {"hardware": hardware(device), "versions": versions(), "commit": commit()}
    for part in small_parts(name, options.weights) if options.weights else parts(name):
        if not options.parts or part.name in options.parts:
            outcomes.append(run(part, folder))
            summary["parts"] = [asdict(outcome) for outcome in outcomes]
            (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))
    sys.exit(any(outcome.exit_code != 0 for outcome in outcomes))


if __name__ == "__main__":
    main()
