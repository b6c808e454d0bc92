"""Where the time of a token goes that is not the model's: a profile of the decode loop, part by part.

    python -m tests.benchmarks.host_work [--shape tiny] [--new-tokens 400] [--save]

Each part is a method, timed from outside; what no part accounts for is the loop itself. On a CPU the model's part
ends when its logits are there. The last line of stdout is a JSON object of microseconds a token.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from producer.contract import GenerationRequest
from tests.models import save_tokenizer
from worker.engine import Engine, Tokenizer, resolve_device
from worker.engine.generation import Generation

from .engine import RESULTS, commit, hardware, versions
from .engine_peers import SAMPLED
from .shapes import SHAPES, build

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"prompt_lookup": False},  # random weights go round in circles
    "sampled": {"temperature": 0.7},
    "sampled, top_p, top_k": SAMPLED,
    "everything": {**SAMPLED, "repetition_penalty": 1.05, "presence_penalty": 0.1, "stop": ["never to be seen"]},
}


class Clock:
    """Adds up what is spent in some methods."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Time a method of one object."""
        setattr(owner, method, self._timed(getattr(owner, method), part))

    def _timed(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started_at = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - started_at

        return timed


def profile(engine: Engine, kind: str, new_tokens: int) -> dict[str, float]:
    """Microseconds a token by part."""
    prompt = tuple(random.Random(0).choices(range(8, 760), k=32))
    request = GenerationRequest(prompt_token_ids=prompt, max_new_tokens=new_tokens, ignore_eos=True, **KINDS[kind])
    clock = Clock()
    with closing(engine.start(request, engine.encode(request), seed=0)) as generation:
        next(generation)
        watch_parts(clock, generation, engine)
        started_at = time.perf_counter()
        for _ in generation:
            pass
        total = time.perf_counter() - started_at
    del engine.decode, engine.path.read  # the watched ones, which stand before the class's
    parts = {part: seconds * 1e6 / (new_tokens - 1) for part, seconds in clock.seconds.items()}
    total_us = total * 1e6 / (new_tokens - 1)
    return {**parts, "loop": total_us - sum(parts.values()), "host": total_us - parts["model"], "total": total_us}


def watch_parts(clock: Clock, generation: Generation, engine: Engine) -> None:
    """The parts of a step."""
    clock.watch(engine, "decode", "model")
    clock.watch(engine.path, "read", "model")  # of drafts
    clock.watch(generation._chooser._sampler, "choose", "sampling")
    clock.watch(generation._output, "push", "text and stops")
    if generation._tokens.lookup is not None:
        clock.watch(generation._tokens.lookup, "draft", "prompt lookup")
        clock.watch(generation._tokens.lookup, "push", "prompt lookup")
        clock.watch(generation._tokens.lookup, "note_step", "prompt lookup")


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--new-tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="keep the result in tests/benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = resolve_device(options.device)
    with TemporaryDirectory() as folder:
        tokenizer = Tokenizer(save_tokenizer(Path(folder)))
    engine = Engine(build(options.shape, device, torch.float32), tokenizer, device)
    engine.warm_up()
    result = {}
    for kind in KINDS:
        rounds = [profile(engine, kind, options.new_tokens) for _ in range(options.rounds)]
        result[kind] = {part: round(statistics.median(each[part] for each in rounds), 1) for part in rounds[0]}
    Console(stderr=True).print(table(result))
    if options.save:
        kept = {"hardware": hardware(device), "versions": versions(), "commit": commit(), "microseconds": result}
        (RESULTS / "host-work.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(result))


def table(result: dict[str, dict[str, float]]) -> Table:
    """For people."""
    parts = list(result["greedy"])
    shown = Table("µs a token", *parts)
    for kind, spent in result.items():
        shown.add_row(kind, *(f"{spent[part]:.0f}" for part in parts))
    return shown


if __name__ == "__main__":
    sys.exit(main())
