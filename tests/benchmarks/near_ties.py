"""How exact "the same text" is: logits of rows that are read together, beside those of the same rows one by one.

    python -m tests.benchmarks.near_ties [--sequences 3] [--tokens 400] [--draws 100] [--save]

A resumed job, a draft and a known beginning read many rows in one product, where a text that was not disturbed was
decoded row by row. The sums come in another order, so that logits differ in their last bits, and a choice between
two tokens that are closer than that may fall otherwise. Counted is how often it does: greedily at every position,
and with Gumbel noise, which is how a seed draws, many times at each. In float32, on one thread of the CPU. The
last line of stdout is a JSON object.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from tests.models import CPU, engine_for, random_model, save_tokenizer, tiny_model_paths
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.models.config_loader import locate_model

from .engine import RESULTS, commit, hardware, versions

IDS = (3, 700)
"""From and below which ids are drawn: behind the special ones, and within every vocabulary here."""


@dataclass
class Difference:
    """What one model's rows differ in.  positions: at which a choice was made; flips: that fell otherwise."""

    model: str
    rows: int = 0
    rows_that_differ: int = 0
    largest_difference: float = 0.0
    smallest_gap: float = float("inf")
    """Between the logits of the two likeliest tokens of any row."""
    greedy_flips: int = 0
    sampled_positions: int = 0
    sampled_flips: int = 0

    def add(self, one_by_one: Tensor, together: Tensor, draws: int) -> None:
        """Compare logits of the same positions, (rows, vocab) float32 both."""
        best, second = together.topk(2).values.unbind(1)
        self.rows += len(together)
        self.rows_that_differ += int((one_by_one != together).any(1).sum())
        self.largest_difference = max(self.largest_difference, float((one_by_one - together).abs().max()))
        self.smallest_gap = min(self.smallest_gap, float((best - second).min()))
        self.greedy_flips += _flips(one_by_one, together)
        for _ in range(draws):
            noise = -torch.log(-torch.log(torch.rand(together.shape, dtype=torch.float64)))
            self.sampled_positions += len(together)
            self.sampled_flips += _flips(one_by_one.double() + noise, together.double() + noise)


def _flips(some: Tensor, others: Tensor) -> int:
    return int((some.argmax(1) != others.argmax(1)).sum())


def measure(model: str, engine: Engine, *, sequences: int, tokens: int, draws: int) -> Difference:
    """Read random sequences in both ways.  tokens: of each sequence; draws: sampled choices at each position."""
    difference = Difference(model)
    for seed in range(sequences):
        torch.manual_seed(seed)
        ids = torch.randint(*IDS, (1, tokens))
        with torch.inference_mode():
            difference.add(_one_by_one(engine, ids), _together(engine, ids), draws)
    engine.path.truncate(0)
    return difference


def _one_by_one(engine: Engine, ids: Tensor) -> Tensor:
    engine.path.truncate(0)
    engine.path.read(ids[:, :1])
    return torch.cat([engine.path.decode(ids[:, i : i + 1]).clone() for i in range(1, ids.shape[1])])


def _together(engine: Engine, ids: Tensor) -> Tensor:
    engine.path.truncate(0)
    return engine.path.read(ids, rows=ids.shape[1] - 1)


def engines(tokens: int) -> Iterator[tuple[str, Engine]]:
    """Name and engine: the trained model on both paths, and one of random weights."""
    tiny = locate_model("tiny", tiny_model_paths())
    for path in ("static", "dynamic"):
        engine = Engine.load(tiny, CPU, options=EngineOptions(path=path))
        yield f"tiny, {path}", engine
    with TemporaryDirectory() as folder:
        tokenizer = Tokenizer(save_tokenizer(Path(folder)))
        yield "random, static", engine_for(random_model(context_length=2 * tokens), tokenizer)


def main() -> None:
    """Measure each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400, help="Of each sequence.")
    parser.add_argument("--draws", type=int, default=100, help="Sampled choices at each position.")
    parser.add_argument("--save", action="store_true", help=f"Keep the figures in {RESULTS.name}/.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name, engine in engines(options.tokens):
        sizes = {"sequences": options.sequences, "tokens": options.tokens, "draws": options.draws}
        found.append(measure(name, engine, **sizes))
        show(found[-1])
    figures = {
        "machine": hardware(CPU),
        "commit": commit(),
        **versions(),
        "dtype": "float32",
        "models": [asdict(each) for each in found],
    }
    if options.save:
        (RESULTS / "near-ties.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def show(difference: Difference) -> None:
    """For people."""
    print(
        f"{difference.model}: {difference.rows_that_differ} of {difference.rows} rows differ in a bit, by "
        f"{difference.largest_difference:.2g} at most (the two likeliest are {difference.smallest_gap:.2g} apart "
        f"at least); other choices: {difference.greedy_flips} of {difference.rows} greedy, "
        f"{difference.sampled_flips} of {difference.sampled_positions} sampled"
    )


if __name__ == "__main__":
    main()
