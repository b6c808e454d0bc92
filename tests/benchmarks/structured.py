"""What an answer that is held to a structure costs, and what it saves.

    python -m tests.benchmarks.structured --model-path FOLDER [--save NAME]

Mask: how long the host takes for the bits of a place (`fill`), and to bring them to the logits (`apply`); and how
much longer a step takes for both (`step`), beside the forward pass: the same text with and without a grammar that
allows everything. Forced tokens: tokens a second of JSON by a schema over those of free text of the same length.

FOLDER holds a real model: a random one has no vocabulary. The last line of stdout is a JSON object.
"""

import argparse
import json
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from producer.contract import GenerationRequest
from worker.engine import Engine, EngineOptions, resolve_device
from worker.engine.sampling.token_mask import TokenMask

from .engine import RESULTS, commit, hardware, versions

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "author": {
            "type": "object",
            "properties": {
                "first_name": {"type": "string", "maxLength": 20},
                "family_name": {"type": "string", "maxLength": 20},
            },
            "required": ["first_name", "family_name"],
            "additionalProperties": False,
        },
        "published_in_year": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "kind": {"enum": ["novel", "short stories", "poems", "essays"]},
        "is_translated": {"type": "boolean"},
        "keywords": {"type": "array", "items": {"type": "string", "maxLength": 15}, "minItems": 2, "maxItems": 3},
    },
    "required": ["title", "author", "published_in_year", "kind", "is_translated", "keywords"],
    "additionalProperties": False,
}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "book", "schema": SCHEMA}}
ANYTHING = {"type": "regex", "regex": "(?s:.*)"}
PROMPTS = (
    "A famous book, as JSON: ", "The book that I like best, as JSON: ", "A book of poems from France, as JSON: ",
    "Une description d'un roman, en JSON : ", "一本中国小说，用JSON表示：",
)  # fmt: skip


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    options = _options()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    engine = Engine.load(
        options.model_path, device, options.dtype, EngineOptions(prompt_lookup=False, context_length=1024)
    )
    console = Console(stderr=True)
    console.print("warming up")
    engine.warm_up()
    started_at = time.perf_counter()
    engine.encode(asking(PROMPTS[0], response_format=AS_SCHEMA))
    first_s = time.perf_counter() - started_at
    result = {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "model": options.model_path.name,
        "vocab_size": engine.vocab_size,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "first_grammar_s": round(first_s, 2),
        "mask_us": masks(engine, options),
        "step": steps(engine, options),
        "forced": forced(engine, options),
    }
    if options.save:
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(table(result))
    print(json.dumps(result))


def asking(prompt: str, **fields: Any) -> GenerationRequest:
    """A request for at most 200 tokens."""
    return GenerationRequest.parse({"prompt": prompt, "max_new_tokens": 200, **fields})


def answer(engine: Engine, request: GenerationRequest) -> tuple[list[int], float]:
    """The ids, and the seconds from the first of them to the last: without prefill."""
    prompt_ids, ids = engine.encode(request), []
    with closing(engine.start(request, prompt_ids, seed=0)) as generation:
        started_at = 0.0
        for step in generation:
            started_at = started_at or time.perf_counter()
            ids.append(step.token_id)
        return ids, time.perf_counter() - started_at


def masks(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """Of each place of real answers by a schema, in microseconds."""
    fill, apply = [], []
    for prompt in PROMPTS[: options.prompts]:
        request = asking(prompt, response_format=AS_SCHEMA)
        ids, _ = answer(engine, request)
        constraint = engine._constraints.of(request, engine.eos_token_ids)
        assert constraint is not None
        mask = TokenMask(constraint.words, engine.vocab_size, engine.device)
        logits = torch.randn((1, engine.vocab_size), device=engine.device)
        for token_id in ids:
            begun = time.perf_counter()
            constraint.fill(mask.words)
            filled = time.perf_counter()
            torch.add(logits, mask.bias())
            if engine.device.type == "cuda":
                torch.cuda.synchronize()
            applied = time.perf_counter()
            fill.append((filled - begun) * 1e6)
            apply.append((applied - filled) * 1e6)
            constraint.push(token_id)
    return {"places": len(fill), "fill": spread(fill), "apply": spread(apply)}


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and mean."""
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(p50, 1), "p95": round(p95, 1), "mean": round(statistics.fmean(values), 1)}


def steps(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """How much longer a step takes for a mask, one after the other and in turn."""
    free, held = [], []
    for _ in range(options.rounds):
        for into, fields in ((free, {}), (held, {"grammar": ANYTHING})):
            bias = dict.fromkeys(engine.eos_token_ids, -100.0)  # so that both go on
            request = asking(PROMPTS[1], logit_bias=bias, **fields)
            ids, seconds = answer(engine, request.model_copy(update={"max_new_tokens": options.new_tokens}))
            into.append(seconds / (len(ids) - 1) * 1e6)
    more = [some - other for some, other in zip(held, free, strict=True)]
    return {
        "free_us": round(statistics.median(free), 1),
        "held_us": round(statistics.median(held), 1),
        "more_us": round(statistics.median(more), 1),
    }


def forced(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """JSON by a schema over free text of as many tokens."""
    gains, shares = [], []
    for _ in range(options.rounds):
        for prompt in PROMPTS[: options.prompts]:
            request = asking(prompt, response_format=AS_SCHEMA)
            ids, held_s = answer(engine, request)
            free, free_s = answer(
                engine, asking(prompt, ignore_eos=True).model_copy(update={"max_new_tokens": len(ids)})
            )
            assert len(free) == len(ids)
            gains.append(free_s / held_s)
            shares.append(share_of_forced(engine, request, ids))
    return {
        "json_over_free": round(statistics.median(gains), 2),
        "slowest": round(min(gains), 2),
        "fastest": round(max(gains), 2),
        "forced_share": round(statistics.median(shares), 2),
    }


def share_of_forced(engine: Engine, request: GenerationRequest, ids: list[int]) -> float:
    """Of the tokens of an answer, those that needed no step."""
    constraint = engine._constraints.of(request, engine.eos_token_ids)
    assert constraint is not None
    count = place = 0
    while place < len(ids):
        if taken := len(constraint.take_forced(len(ids) - place)):
            count, place = count + taken, place + taken
        else:
            constraint.push(ids[place])
            place += 1
    return count / len(ids)


def table(result: dict[str, Any]) -> Table:
    """For people."""
    shown = Table("", "", title=f"{result['model']}, vocabulary of {result['vocab_size']:,}, {result['dtype']}")
    mask, step, gain = result["mask_us"], result["step"], result["forced"]
    for name in ("fill", "apply"):
        shown.add_row(f"{name} a mask, p50 / p95", f"{mask[name]['p50']} / {mask[name]['p95']} us")
    shown.add_row("a step, free / held", f"{step['free_us']} / {step['held_us']} us ({step['more_us']:+} us)")
    shown.add_row(
        "JSON by a schema over free text", f"{gain['json_over_free']} ({gain['slowest']} to {gain['fastest']})"
    )
    shown.add_row("tokens that were forced", f"{gain['forced_share']:.0%}")
    return shown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--new-tokens", type=int, default=60, help="of each text that shows what a step takes")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="so many of them, to be quicker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", metavar="NAME", help="keep the raw figures as results/NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
