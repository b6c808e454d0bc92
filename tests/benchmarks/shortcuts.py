"""What the engine saves: prefill of a known beginning, and decode steps where a draft is right.

    make bench-shortcuts      or: python -m tests.benchmarks.shortcuts --shape qwen2-0.5b [--save NAME]

Prefix reuse: time to first token of a prompt with a long beginning that the engine has read for an earlier prompt,
over that of a cold one. Prompt lookup: tokens per second with drafts over those without, on a text that repeats
its prompt, on one that never repeats anything, and on one made to mislead, in which the last tokens have always
stood before and were always followed by something else.

Random weights write no such texts. So here the layers add nothing, and the output matrix is made to send each
token to a chosen next one: the same matrices are read, and the text is known. The last line of stdout is a JSON
object.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2ForCausalLM

from producer.contract import GenerationRequest
from tests.models import save_tokenizer
from worker.engine import Engine, EngineOptions, Tokenizer, resolve_device

from .engine import RESULTS, commit, hardware, versions
from .shapes import SHAPES, build

BEGINNING_TOKENS = 2000
ENDING_TOKENS = 16
CYCLE = 500


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    options = _options()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    model = build(options.shape, device, getattr(torch, options.dtype), tied=False)
    with TemporaryDirectory() as folder:
        tokenizer = Tokenizer(save_tokenizer(Path(folder)))
    engine = Engine(model, tokenizer, device, EngineOptions(prompt_lookup=False))
    console = Console(stderr=True)
    console.print("warming up")
    engine.warm_up()
    result = {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "shape": options.shape,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "prefix_reuse": prefix_reuse(engine, options.rounds),
        "prompt_lookup": prompt_lookup(engine, model, options),
    }
    if options.save:
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(table(result))
    print(json.dumps(result))


def prefix_reuse(engine: Engine, rounds: int) -> dict[str, Any]:
    """Time to first token, cold and with the beginning in the cache, and parked in host memory."""
    cold, held, parked = [], [], []
    for number in range(rounds):
        rng = random.Random(number)
        beginning, other = ids(rng, BEGINNING_TOKENS), ids(rng, BEGINNING_TOKENS)
        cold.append(first_token_ms(engine, [*beginning, *ids(rng, ENDING_TOKENS)], cached=0))
        held.append(first_token_ms(engine, [*beginning, *ids(rng, ENDING_TOKENS)], cached=BEGINNING_TOKENS))
        first_token_ms(engine, other, cached=0)
        parked.append(first_token_ms(engine, [*beginning, *ids(rng, ENDING_TOKENS)], cached=BEGINNING_TOKENS))
    return {
        "common_tokens": BEGINNING_TOKENS,
        "cold_ttft_ms": round(statistics.median(cold), 1),
        "held_ttft_ms": round(statistics.median(held), 1),
        "parked_ttft_ms": round(statistics.median(parked), 1),
        "cold_over_held": round(statistics.median(map(ratio, cold, held)), 1),
        "cold_over_parked": round(statistics.median(map(ratio, cold, parked)), 1),
    }


def ratio(some: float, other: float) -> float:
    """One over the other."""
    return some / other


def ids(rng: random.Random, count: int) -> list[int]:
    """Random tokens, none of which the end of another prompt has."""
    return rng.choices(range(8, 760), k=count)


def first_token_ms(engine: Engine, prompt: Sequence[int], *, cached: int) -> float:
    """Of one prompt; `cached` of its tokens are to come from the cache, give or take a coincidence."""
    request = GenerationRequest(prompt_token_ids=tuple(prompt), max_new_tokens=2)
    prompt_ids = engine.encode(request)
    started_at = time.perf_counter()
    with closing(engine.start(request, prompt_ids, seed=0)) as generation:
        next(generation)
        elapsed_ms = (time.perf_counter() - started_at) * 1000
    assert abs(generation.cached_tokens - cached) <= 2, f"{generation.cached_tokens} tokens came from the cache"
    return elapsed_ms


def prompt_lookup(engine: Engine, model: Qwen2ForCausalLM, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second with drafts over those without, by text; medians over rounds of both in turn."""
    walk = make_deterministic(model)
    texts: dict[str, Callable[[], list[int]]] = {
        "repeating": lambda: walk(CYCLE, start=0, length=CYCLE + 50),
        "without_repetition": lambda: walk(0, start=5000, length=100),
        "misleading": lambda: misleading(walk(0, start=5000, length=100 + options.new_tokens)),
    }
    return {
        name: {
            "with_over_without": round(
                statistics.median(
                    ratio(
                        speed(engine, text(), options, drafts=True), speed(engine, text(), options, drafts=False)
                    )
                    for _ in range(options.rounds)
                ),
                3,
            )
        }
        for name, text in texts.items()
    }


def make_deterministic(model: Qwen2ForCausalLM) -> Callable[..., list[int]]:
    """Let the model say after each token the next of a fixed order: the first CYCLE go round, others on and on."""
    vocabulary = model.config.vocab_size
    cycle = min(CYCLE, vocabulary // 4)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        following = torch.arange(1, vocabulary + 1) % vocabulary
        following[cycle - 1], following[-1] = 0, cycle
        model.lm_head.weight[following] = model.model.embed_tokens.weight.clone()

    def walk(of: int, *, start: int, length: int) -> list[int]:
        if of:
            return [position % cycle for position in range(length)]
        first = min(start, vocabulary // 3)
        return list(range(first, first + length))

    return walk


def misleading(path: list[int]) -> list[int]:
    """A prompt in which any three tokens of the path precede a wrong one; it ends where the path begins."""
    wrong = [token for first in range(len(path) - 3) for token in (*path[first : first + 3], path[0])]
    return [*wrong, *path[:3]]


def request(prompt: Sequence[int], new_tokens: int, *, drafts: bool = False) -> GenerationRequest:
    """Greedy, and it does not end by itself."""
    return GenerationRequest(
        prompt_token_ids=tuple(prompt), max_new_tokens=new_tokens, prompt_lookup=drafts, ignore_eos=True
    )


def speed(engine: Engine, prompt: Sequence[int], options: argparse.Namespace, *, drafts: bool) -> float:
    """Tokens per second after the first."""
    asked = request(prompt, options.new_tokens, drafts=drafts)
    with closing(engine.start(asked, engine.encode(asked), seed=0)) as generation:
        next(generation)
        started_at = time.perf_counter()
        count = sum(1 for _ in generation)
    return count / (time.perf_counter() - started_at)


def table(result: dict[str, Any]) -> Table:
    """For people."""
    shown = Table("", "", title=f"{result['shape']}, {result['dtype']}, {result['hardware']}")
    for part in ("prefix_reuse", "prompt_lookup"):
        for name, value in result[part].items():
            shown.add_row(f"{part}: {name}", str(value))
    return shown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", metavar="NAME", help="keep the result as tests/benchmarks/results/NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
