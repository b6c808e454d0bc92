"""A decode step of Qwen2-7B on a GPU by its parts, in bfloat16 and small weights, and a choice, beside torch's.

    python -m tests.benchmarks.products [--device cuda:0] [--save NAME]

Each is captured in a graph for all 28 layers, whose weights and caches are apart, so that nothing comes out of the
GPU's own cache, as in a step. The last line of stdout is a JSON object.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from producer.contract import SamplingParams
from worker.engine import resolve_device
from worker.engine.forward.matrices import bytes_of
from worker.engine.sampling.sampler import Sampler

from .bandwidth import measure_bandwidth
from .engine import RESULTS, commit, hardware, versions
from .small_shapes import random_matrix

LAYERS = 28
MATRICES = {
    "query, key, value": (4608, 3584),
    "output": (3584, 3584),
    "gate, up": (37_888, 3584),
    "down": (3584, 18_944),
}
"""(out, in) of a layer."""
FORMS = ("int4", "int8")
ROWS = (1, 8, 16)
"""Of a step: a token, or a draft with the one before it."""
QUERY_HEADS, KV_HEADS, HEAD_DIM = 28, 4, 128
LENGTHS = (500, 2000, 8000, 32_000)
VOCAB_SIZE = 152_064
CHOICES: dict[str, tuple[float, dict[str, Any]]] = {
    "greedy": (2.5, {}),
    "temperature 0.7": (2.5, {"temperature": 0.7}),
    "and top_p 0.8, top_k 20": (2.5, {"temperature": 0.7, "top_p": 0.8, "top_k": 20}),
    "and top_p 0.95": (2.5, {"temperature": 0.7, "top_p": 0.95}),
    "and top_p 0.8, flat": (0.07, {"temperature": 0.7, "top_p": 0.8}),
}
"""The standard deviation of the logits, and what a request asks for."""


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--save", metavar="NAME", help="keep the result as tests/benchmarks/results/NAME.json")
    options = parser.parse_args()
    device = resolve_device(options.device)
    rows = [*matrices(device), *small_matrices(device), *attention(device), *choices(device)]
    result = {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "bandwidth_gb_s": round(measure_bandwidth(device) / 1e9, 1),
        "dtype": "bfloat16",
        "rows": rows,
    }
    if options.save:
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    shown = Table("what", "ours µs", "torch µs", "MB moved", "ours GB/s")
    for row in rows:
        shown.add_row(row["name"], *(f"{row[key]:.1f}" for key in ("ours_us", "torch_us", "megabytes", "gb_s")))
    Console(stderr=True, width=100).print(shown)
    print(json.dumps(result))


@torch.inference_mode()
def matrices(device: torch.device) -> list[dict[str, Any]]:
    """The linear of one row, beside torch's."""
    from worker.engine.forward.gpu.matrix_vector import matrix_vector  # noqa: PLC0415 - Triton is where a GPU is

    found = []
    for name, shape in MATRICES.items():
        weights = [torch.randn(shape, device=device).bfloat16() / 100 for _ in range(LAYERS)]
        row = torch.randn((1, shape[1]), device=device).bfloat16()
        ours = microseconds(lambda: [matrix_vector(row, weight) for weight in weights])  # noqa: B023 - called here
        theirs = microseconds(lambda: [functional.linear(row, weight) for weight in weights])  # noqa: B023
        found.append(figures(f"{name} {shape}", ours, theirs, weights[0].nbytes))
    return found


@torch.inference_mode()
def small_matrices(device: torch.device) -> list[dict[str, Any]]:
    """The linear of one row, of a few, and what it takes to write a matrix out; beside torch's linear in bfloat16.

    int4 is in groups of 32, with zeros.
    """
    from worker.engine.forward.gpu import small_matrix_rows, small_matrix_vector, written_out  # noqa: PLC0415

    found = []
    for name, shape in MATRICES.items():
        numbers = [torch.randn(shape, device=device).bfloat16() / 100 for _ in range(LAYERS)]
        theirs = {}
        for count in ROWS:
            rows = torch.randn((count, shape[1]), device=device).bfloat16()
            theirs[count] = microseconds(lambda: [functional.linear(rows, matrix) for matrix in numbers])  # noqa: B023
        for form in FORMS:
            small = [random_matrix(shape, device, form) for _ in range(LAYERS)]
            read = bytes_of(small[0])
            for count in ROWS:
                linear = small_matrix_vector.matrix_vector if count == 1 else small_matrix_rows.few_rows
                rows = torch.randn((count, shape[1]), device=device).bfloat16()
                ours = microseconds(lambda: [linear(rows, matrix) for matrix in small])  # noqa: B023
                what = f"{name} {shape}, {form}" + (f", {count} rows" if count > 1 else "")
                found.append(figures(what, ours, theirs[count], read))
            out = numbers[0]
            ours = microseconds(lambda: [written_out.write_out(matrix, out) for matrix in small])  # noqa: B023
            found.append(figures(f"{name}, {form}, written out", ours, theirs[1], read + out.nbytes))
    return found


@torch.inference_mode()
def attention(device: torch.device) -> list[dict[str, Any]]:
    """A row's attention over the cache, beside torch's split-KV flash kernel."""
    from worker.engine.forward.gpu.attention import attend  # noqa: PLC0415 - as above

    shape = 2, KV_HEADS, max(LENGTHS), HEAD_DIM
    cache = [torch.randn(shape, device=device).bfloat16() for _ in range(LAYERS)]
    query = torch.randn((1, QUERY_HEADS, HEAD_DIM), device=device).bfloat16()
    starts = torch.tensor([[0, 1], [0, 0]], dtype=torch.int32, device=device)
    found = []
    for length in LENGTHS:
        used = torch.tensor([length], dtype=torch.int32, device=device)
        ours = microseconds(lambda: [attend(query, *kept, used, HEAD_DIM**-0.5) for kept in cache])  # noqa: B023
        theirs = microseconds(lambda: [_flash(query, kept, starts, used, length) for kept in cache])  # noqa: B023
        found.append(
            figures(f"attention, {length} tokens", ours, theirs, 2 * KV_HEADS * length * HEAD_DIM * query.itemsize)
        )
    return found


@torch.inference_mode()
def choices(device: torch.device) -> list[dict[str, Any]]:
    """A token out of logits that are normally distributed."""
    normal = torch.randn((1, VOCAB_SIZE), device=device)
    ids = torch.empty((1, 0), dtype=torch.int64, device=device)
    found = []
    for name, (deviation, fields) in CHOICES.items():
        logits = deviation * normal
        ours, theirs = (
            Sampler(
                SamplingParams(**fields),
                seed=1,
                prompt_length=0,
                eos_token_ids=frozenset(),
                device=device,
                may_wait=False,
                by_kernels=by_kernels,
            )
            for by_kernels in (True, False)
        )
        taken = [
            microseconds(lambda: [sampler.choose(logits, ids, position) for position in range(LAYERS)])  # noqa: B023
            for sampler in (ours, theirs)
        ]
        found.append(figures(f"choice, {name}", *taken, logits.nbytes))
    return found


def _flash(query: Tensor, kept: Tensor, starts: Tensor, used: Tensor, length: int) -> Tensor:
    """What torch.nn.attention.varlen calls, without its wrapper, which launches one kernel more."""
    keys, values = kept.transpose(1, 2)
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        *(query, keys, values, *starts, 1, length, 0.0, False, False), scale=HEAD_DIM**-0.5, seqused_k=used
    )[0]
    return attended


def microseconds(step: Callable[[], object]) -> float:
    """Of one layer: the fastest of some replays of a graph of all of them."""
    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(8):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        graph.replay()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after))
    return min(times) * 1000 / LAYERS


def figures(name: str, ours_us: float, torch_us: float, read: int) -> dict[str, Any]:
    """One row.  read: bytes that have to be read."""
    return {
        "name": name,
        "ours_us": round(ours_us, 2),
        "torch_us": round(torch_us, 2),
        "megabytes": round(read / 1e6, 1),
        "gb_s": round(read / ours_us / 1e3),
    }


if __name__ == "__main__":
    main()
