"""What small weights cost in quality: perplexity, and how far the choices are from those of the full weights.

    python -m tests.benchmarks.quality --model-path FOLDER [--tokens 2048] [--save NAME]

The text is `quality.txt` beside this file: prose and code, which no model has been trained on more than once. The
checkpoint in float32 is what the others are held against: KL is that of their distributions from its own, in nats
a token, and "same first choice" how often the likeliest token is the same. The last line of stdout is a JSON
object.
"""

import argparse
import gc
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from worker.engine import ModelLoader, Tokenizer, resolve_device
from worker.engine.loading.small_weights import described
from worker.engine_options import Group, Weights

from .engine import RESULTS, commit, hardware, versions

TEXT = Path(__file__).with_name("quality.txt")
WINDOW = 512
"""Tokens that are read at once, each window from an empty context."""
FORMS: tuple[tuple[str, Weights, Group], ...] = (
    ("float32", "auto", 32),
    ("bfloat16", "auto", 32),
    ("float32", "int8", 32),
    ("float32", "int4", 32),
    ("float32", "int4", 64),
    ("float32", "int4", 128),
    ("bfloat16", "int8", 32),
    ("bfloat16", "int4", 32),
)
"""Of rows, of weights, and the columns of a group. The first is what the others are held against."""


@dataclass(frozen=True)
class Row:
    """One form."""

    rows: str
    weights: str
    group: int | None
    perplexity: float
    kl: float
    """Of its distributions from the reference's, mean over all tokens."""
    same_first_choice: float
    forms: str
    """And their bytes."""


@torch.inference_mode()
def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--save", metavar="NAME", help="keep the result as tests/benchmarks/results/NAME.json")
    options = parser.parse_args()
    device = resolve_device(options.device)
    ids = Tokenizer(options.model_path).encode(TEXT.read_text())[: options.tokens]
    windows = list(torch.as_tensor(ids, device=device).split(WINDOW))
    reference: list[Tensor] = []
    rows: list[Row] = []
    for dtype, weights, group in FORMS:
        model = ModelLoader(options.model_path, dtype, weights=weights, group=group).load(device)
        nll = kl = same = 0.0
        count = 0
        for number, window in enumerate(windows):
            logprobs = model(window[None]).logits[0, :-1].float().log_softmax(-1)
            if len(reference) == number:
                reference.append(logprobs.cpu())
            expected = reference[number].to(device)
            nll -= logprobs.gather(1, window[1:, None]).sum().item()
            kl += (expected.exp() * (expected - logprobs)).sum().item()
            same += (expected.argmax(-1) == logprobs.argmax(-1)).sum().item()
            count += len(window) - 1
        rows.append(
            Row(
                rows=dtype,
                weights=weights if weights != "auto" else dtype,
                group=group if weights == "int4" else None,
                perplexity=round(float(torch.tensor(nll / count).exp()), 4),
                kl=round(kl / count, 6),
                same_first_choice=round(same / count, 4),
                forms=described(model),
            )
        )
        Console(stderr=True).print(rows[-1])
        del model
        gc.collect()
    result = {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "model": options.model_path.name,
        "tokens": sum(map(len, windows)),
        "rows": [asdict(row) for row in rows],
    }
    if options.save:
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(markdown(rows)))
    print(json.dumps(result))


def markdown(rows: list[Row]) -> Iterator[str]:
    """For README.md here."""
    yield "| weights | rows | perplexity | KL, nats | same first choice |"
    yield "|---|---|---|---|---|"
    for row in rows:
        weights = f"{row.weights}, groups of {row.group}" if row.group else row.weights
        yield f"| {weights} | {row.rows} | {row.perplexity:.3f} | {row.kl:.5f} | {row.same_first_choice:.1%} |"


if __name__ == "__main__":
    main()
