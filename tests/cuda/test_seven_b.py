"""Qwen2-7B's shape on the cards that people have: compiled and captured, kernels a step, memory, registers."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from . import card
from .seven_b import LAYERS, Report

pytestmark = pytest.mark.slow
card.need()


class Run(NamedTuple):
    """One card, what was seen on it, and the folder of its kernels."""

    name: str
    architecture: str
    kind: str
    """masked: attention goes through a mask, as where our kernels are not exact. Or the form of small weights, and
    deterministic where the engine is."""
    report: Report
    kernels: Path


CARDS = {
    "3090": "sm_86",
    "4090": "sm_89",
    "l4": "sm_89",
    "h100": "sm_90",
    "4090, masked": "sm_89",
    "4090, int8": "sm_89",
    "h100, int4": "sm_90",
    "h100, deterministic": "sm_90",
    "4090, int4 deterministic": "sm_89",
}
"""The architecture; what comes behind a comma is the kind of the run."""
KERNELS = {
    "": (13, 8), "masked": (17, 9), "int8": (13, 12), "int4": (13, 12), "deterministic": (13, 8),
    "int4 deterministic": (13, 12),
}  # fmt: skip
"""Of a step: in a layer, and outside of the layers.
Kernels: 4 products of a row and a matrix, 2 for attention, 2 norms, the rotation, keys and values written, silu,
a sum. Masked: 4 products, into which norms and silu are fused, 2 sums for the norms, rotation, keys and values
written, and for attention 2 products of cuBLAS, 4 for a softmax in float32, 1 cast.
Outside: the embedding, positions, cosine and sine, the last norm, the head, and the mask. An embedding in int8
takes five. Small: the products are kernels of their own, and nothing is written out."""
GRAPHS = {"masked": 32}
"""With a mask, one row at each of the ranges; else 3, a step of 1, 8 and 16 rows."""
COMPILATIONS = {"masked": 3}
"""With a mask a layer for one length and for all, and the head; else 6, a layer and the head for each number of
rows."""
BESIDE = {
    False: {"greedy": 4, "sampled": 4, "top_p and top_k": 8, "penalties": 13, "all of these": 19, "logprobs": 25},
    True: {
        "greedy": 8,
        "sampled": 49,
        "top_p and top_k": 87,
        "penalties": 17,
        "all of these": 123,
        "logprobs": 29,
    },
}
"""Launches of a token beside the graph: to choose it, and to send it on its way."""
LEVEL_MIB = 8
SPILLED = {"masked": 8}
"""Bytes, else 0: of a softmax, at one of the sizes that are tried for it."""
PTXAS = Path(sysconfig.get_path("purelib"), "triton/backends/nvidia/bin/ptxas")


@pytest.fixture(scope="module", params=CARDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    _, _, kind = request.param.partition(", ")
    kernels = tmp_path_factory.mktemp("kernels")
    return Run(request.param, CARDS[request.param], kind, report_on(request.param, kernels), kernels)


def report_on(name: str, kernels: Path, held_mib: int = 0) -> Report:
    card, _, kind = name.partition(", ")
    process = subprocess.run(
        [sys.executable, "-m", "tests.cuda.seven_b", *kind.split()],
        env={
            **os.environ,
            "STANDIN_CARD": card,
            "STANDIN_HELD_MIB": str(held_mib),
            "TORCHINDUCTOR_CACHE_DIR": str(kernels),
            "TRITON_CACHE_DIR": str(kernels / "triton"),
        },
        stdout=subprocess.PIPE,
        check=True,
        timeout=1200,
    )
    return Report(**json.loads(process.stdout))


def test_the_step_is_compiled_and_captured_whole(run: Run) -> None:
    report = run.report
    assert (report.compiled, report.captured) == (True, True)
    assert ("it is masked" in report.why) if run.kind == "masked" else (report.why == "")
    assert (report.graph_breaks, report.violations) == (0, [])
    assert (report.graphs, report.compilations) == (GRAPHS.get(run.kind, 3), COMPILATIONS.get(run.kind, 6))


def test_a_step_has_as_many_kernels_as_it_had(run: Run, figure: Callable[[str], None]) -> None:
    report = run.report
    a_layer = sum(count // LAYERS for count in report.step.values())
    total = sum(report.step.values())
    outside = total - LAYERS * a_layer
    figure(
        f"{run.name}: {LAYERS} x {a_layer} + {outside} = {total} kernels a step, {report.graphs} graphs, "
        f"{report.compilations} compilations"
    )
    assert (a_layer, outside) == KERNELS[run.kind], "fewer are better: change the number"
    beside = BESIDE[run.kind == "masked"]
    assert {kind: report.beside[kind] for kind in beside} == beside


def test_there_is_memory_for_long_contexts_and_some_to_spare(run: Run, figure: Callable[[str], None]) -> None:
    report = run.report
    figure(f"{run.name}: context {report.context:,} tokens; {report.free:,.0f} MiB free after jobs of all kinds")
    assert report.context >= 95_000
    assert report.free >= 1024


def test_jobs_of_all_kinds_leave_reserved_memory_level(run: Run, figure: Callable[[str], None]) -> None:
    first, second = run.report.reserved
    figure(f"{run.name}: reserved {min(first.values()):,.0f} to {max(second.values()):,.0f} MiB over all jobs")
    assert set(second.values()) == {max(first.values())}, "jobs of kinds that it had served took more memory"
    assert max(first.values()) - min(first.values()) <= LEVEL_MIB, "jobs of some kind take memory of their own"


def test_no_kernel_spills_registers(run: Run) -> None:
    """Of those that a tuning only tried, none either: on a card, it may take another."""
    sources = sorted(run.kernels.rglob("*.ptx"))
    assert len(sources) > 20
    spilling = {source.stem: stored for source in sources if (stored := spilled_bytes(source, run.architecture))}
    assert max(spilling.values(), default=0) <= SPILLED.get(run.kind, 0), spilling


def test_a_start_with_less_memory_finds_all_that_was_compiled(run: Run) -> None:
    if run.name != "4090":
        pytest.skip("one card tells")
    before = {*run.kernels.rglob("*.ptx")}
    again = report_on(run.name, run.kernels, held_mib=100)
    assert again.context < run.report.context
    assert {*run.kernels.rglob("*.ptx")} == before


def spilled_bytes(source: Path, architecture: str) -> int:
    [target] = re.findall(r"^\.target (\w+)", source.read_text(), re.MULTILINE)
    assert target in {architecture, f"{architecture}a"}
    command = [PTXAS, "-v", f"--gpu-name={target}", source, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return max(map(int, re.findall(r"(\d+) bytes spill stores", said)))
