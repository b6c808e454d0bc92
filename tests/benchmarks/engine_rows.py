"""What the engine's benchmark says of an engine on a prompt, and the table of it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from .engine_peers import Run


@dataclass(frozen=True)
class Row:
    """One engine on one prompt."""

    engine: str
    shape: str
    """Or the trained model."""
    device: str
    dtype: str
    """Of rows, and the form of the weights where they are of another."""
    prompt_tokens: int
    sampling: str
    prefill_ms: float | None
    ttft_ms: float
    tokens_per_second: float
    """Median over the rounds."""
    tokens_per_second_spread: tuple[float, float]
    """Slowest and fastest round."""
    fraction_of_bandwidth: float | None
    bandwidth_gb_s: float
    """Median over the rounds."""
    speed_over_llama_cpp: float | None
    """Tokens a second over those of llama.cpp with weights as small, median of the rounds' ratios."""
    first_token_over_llama_cpp: float | None
    """Its time over that of llama.cpp."""
    same_tokens: int | None
    """How many tokens, from the first on, are those of the engine named first: greedy, of a trained model."""
    peak_bytes: int | None
    note: str
    """How the engine ran, where it can run in more than one way."""


def place(row: Row) -> tuple[str, str, str, int, str]:
    """What a row says something about."""
    return row.engine, row.shape, row.dtype, row.prompt_tokens, row.sampling


def over(own: list[Run], theirs: list[Run] | None) -> dict[str, float | None]:
    """Round by round: the speed of a machine changes from one to the next."""
    if theirs is None:
        return {"speed_over_llama_cpp": None, "first_token_over_llama_cpp": None}
    pairs = list(zip(own, theirs, strict=True))
    speeds = [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
    firsts = [one.first_token_s / other.first_token_s for one, other in pairs]
    return {
        "speed_over_llama_cpp": round(statistics.median(speeds), 3),
        "first_token_over_llama_cpp": round(statistics.median(firsts), 3),
    }


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How long they are the same."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


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


def table(rows: list[Row]) -> Table:
    """For people. What all rows share stands above it, and what none has is left out."""
    shared: list[str] = []
    shown = Table()
    kept: list[list[str]] = []
    for name, cells in _columns(rows).items():
        if name in NAMES_ALONE and len(set(cells)) == 1:
            shared.append(cells[0])
        elif any(cells):
            shown.add_column(name, no_wrap=name in ("engine", *NAMES_ALONE))
            kept.append(cells)
    for row in zip(*kept, strict=True):
        shown.add_row(*row)
    shown.title = ", ".join(shared)
    return shown


NAMES_ALONE = ("model", "dtype", "sampling")
"""Columns that say what they hold without their heads."""


def _columns(rows: list[Row]) -> dict[str, list[str]]:
    return {
        "engine": [row.engine for row in rows],
        "model": [row.shape for row in rows],
        "dtype": [row.dtype for row in rows],
        "prompt": [str(row.prompt_tokens) for row in rows],
        "sampling": [row.sampling for row in rows],
        "ttft ms": [f"{row.ttft_ms:.1f}" for row in rows],
        "tokens/s": [f"{row.tokens_per_second:.1f}" for row in rows],
        "spread": ["{:.1f}-{:.1f}".format(*row.tokens_per_second_spread) for row in rows],
        "of bandwidth": [_or_nothing(row.fraction_of_bandwidth, ".0%") for row in rows],
        "tokens/s over llama.cpp": [_or_nothing(row.speed_over_llama_cpp, ".2f") for row in rows],
        "ttft over llama.cpp": [_or_nothing(row.first_token_over_llama_cpp, ".2f") for row in rows],
        "same tokens": [_or_nothing(row.same_tokens, "d") for row in rows],
        "peak GB": [_or_nothing(row.peak_bytes and row.peak_bytes / 1e9, ".2f") for row in rows],
    }


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
