"""What an answer that is held to a structure costs, and what it saves.

    python -m tests.benchmarks.structured --model-path FOLDER [--save NAME]
    python -m tests.benchmarks.structured --shape qwen2-0.5b --device cuda --dtype bfloat16
    python -m tests.benchmarks.structured --tokenizer FOLDER    # masks alone

Mask: how long the host takes to find the bits of a place (`find`), to bring them to the logits (`apply`; on a GPU
until it is done, and `launch` until it is on its way), and to take the token (`take`). In places where few tokens
may come (`narrow`), where many may (`wide`), and inside of strings with a `maxLength` (`wide_max_length`).
Step: how much longer one takes for all of that, beside the forward pass: the same text with and without a grammar
that allows everything. Forced tokens: tokens a second of JSON by a schema over those of free text of the same
length.

FOLDER holds a real model. A shape has random weights, by which answers are drawn, and a vocabulary that is made
up, or of another folder, by --tokenizer: a mask costs the same there. How many tokens are forced hangs on both.
The last line of stdout is a JSON object.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from producer.contract import GenerationRequest
from worker.engine import Engine, EngineOptions, Tokenizer, resolve_device
from worker.engine.sampling.token_mask import TokenMask
from worker.engine.text.constraint import Constraint, Constraints

from .engine import RESULTS, commit, hardware, versions
from .shapes import SHAPES, build
from .vocabulary import save_tokenizer

SCHEMA: dict[str, Any] = {
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
BOOKS: tuple[dict[str, Any], ...] = (
    {
        "title": "The little prince of nowhere",
        "author": {"first_name": "Antoine", "family_name": "de Saint-Exupery"},
        "published_in_year": 1943,
        "kind": "novel",
        "is_translated": True,
        "keywords": ["war and", "peace"],
    },
    {
        "title": "Extraordinary misunderstandings",
        "author": {"first_name": "Wilhelmina", "family_name": "Featherstonehaugh"},
        "published_in_year": 2017,
        "kind": "short stories",
        "is_translated": False,
        "keywords": ["communication", "a", "transformation"],
    },
)
"""Answers by the schema."""
ANYTHING = {"type": "regex", "regex": "(?s:.*)"}
PROMPTS = (
    "A famous book, as JSON: ", "The book that I like best, as JSON: ", "A book of poems from France, as JSON: ",
    "Une description d'un roman, en JSON : ", "一本中国小说，用JSON表示：",
)  # fmt: skip
WIDE = 1_000
"""Tokens that may come in a place that is called wide."""
CONTEXT_LENGTH = 1024
ROUNDS = 7
"""Each place is tried so often, as other processes disturb it."""


def main() -> None:
    """Measure, print a table for people, and one line for programs."""
    options = _options()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console(stderr=True)
    with_model = options.model_path is not None or options.shape is not None
    result = measured(options, device, console) if with_model else only_masks(options, device)
    if options.save:
        (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(table(result))
    print(json.dumps(result))


def measured(options: argparse.Namespace, device: torch.device, console: Console) -> dict[str, Any]:
    """All of it."""
    engine = load(options, device)
    console.print("warming up")
    started_at = time.perf_counter()
    engine.warm_up()
    warm_up_s = time.perf_counter() - started_at
    return {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "model": options.shape or options.model_path.name,
        "vocab_size": engine.vocab_size,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "warm_up_s": round(warm_up_s, 2),
        "first_grammar_s": round(first_grammar_s(engine), 3),
        "mask_us": masks(engine.tokenizer, engine.vocab_size, device, ROUNDS),
        "step": steps(engine, options),
        "forced": forced(engine, options),
    }


def only_masks(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Of a tokenizer, whose model is not there."""
    tokenizer = Tokenizer(options.tokenizer)
    vocab_size = json.loads((options.tokenizer / "config.json").read_text())["vocab_size"]
    return {
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
        "model": options.tokenizer.name,
        "vocab_size": vocab_size,
        "mask_us": masks(tokenizer, vocab_size, device, ROUNDS),
    }


def load(options: argparse.Namespace, device: torch.device) -> Engine:
    """Without drafts, so that each step is one token."""
    engine_options = EngineOptions(prompt_lookup=False, context_length=CONTEXT_LENGTH, compile=options.compile)
    if options.shape is None:
        return Engine.load(options.model_path, device, options.dtype, engine_options)
    dtype = getattr(torch, "float32" if options.dtype == "auto" else options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        if options.tokenizer is None:
            save_tokenizer(Path(folder), SHAPES[options.shape].vocab_size)
        tokenizer = Tokenizer(options.tokenizer or Path(folder))
    return Engine(build(options.shape, device, dtype, positions=CONTEXT_LENGTH), tokenizer, device, engine_options)


def by(schema: dict[str, Any]) -> dict[str, Any]:
    """A response_format of JSON that keeps to it."""
    return {"type": "json_schema", "json_schema": {"name": "book", "schema": schema}}


def without_lengths() -> dict[str, Any]:
    """The schema, with strings of any length."""
    schema = copy.deepcopy(SCHEMA)
    properties = schema["properties"]
    author = properties["author"]["properties"]
    for string in (properties["title"], *author.values(), properties["keywords"]["items"]):
        del string["maxLength"]
    return schema


def asking(prompt: str, **fields: Any) -> GenerationRequest:
    """A request for at most 200 tokens."""
    return GenerationRequest.parse({"prompt": prompt, "max_new_tokens": 200, **fields})


def constraint_of(engine: Engine, request: GenerationRequest) -> Constraint:
    """At its beginning."""
    constraint = engine.answers.constraint(request, engine.encode(request))
    assert constraint is not None
    return constraint


def first_grammar_s(engine: Engine) -> float:
    """What the first job that is held to a schema waits for, once the engine is ready."""
    started_at = time.perf_counter()
    constraint_of(engine, asking(PROMPTS[0], response_format=by(SCHEMA)))
    return time.perf_counter() - started_at


def answer(engine: Engine, request: GenerationRequest) -> tuple[list[int], float]:
    """The ids, and the seconds from the first of them to the last: without prefill."""
    prompt_ids, ids = engine.encode(request), []
    with closing(engine.start(request, prompt_ids, seed=0)) as generation:
        started_at = 0.0
        for step in generation:
            started_at = started_at or time.perf_counter()
            ids.append(step.token_id)
        return ids, time.perf_counter() - started_at


def masks(tokenizer: Tokenizer, vocab_size: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Of each place of the books, in microseconds, by the kind of the place: the best of so many rounds."""
    constraints = Constraints(tokenizer, vocab_size)
    best: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for wide, schema in (("wide", without_lengths()), ("wide_max_length", SCHEMA)):
        request = asking(PROMPTS[0], response_format=by(schema))
        for book in BOOKS:
            ids = tokenizer.encode(json.dumps(book), add_special_tokens=False).tolist()
            for places in zip(
                *(places_of(constraints, request, ids, vocab_size, device) for _ in range(rounds)), strict=True
            ):
                into = best[wide if places[0].pop("tokens") > WIDE else "narrow"]
                for name in places[0]:
                    into[name].append(min(place[name] for place in places) * 1e6)
    return {
        kind: {"places": len(spent["find"]), **{name: spread(values) for name, values in spent.items()}}
        for kind, spent in sorted(best.items())
    }


@torch.inference_mode()
def places_of(
    constraints: Constraints, request: GenerationRequest, ids: list[int], vocab_size: int, device: torch.device
) -> list[dict[str, float]]:
    """What each place of that answer takes, in seconds, and how many tokens may come there."""
    constraint = constraints.of(request, frozenset())
    assert constraint is not None
    mask = TokenMask(constraint.words, vocab_size, device)
    logits = torch.randn((1, vocab_size), device=device)
    places = []
    for token_id in ids:
        times = [time.perf_counter()]
        constraint.fill(mask.words)
        times.append(time.perf_counter())
        torch.add(logits, mask.bias())
        times.append(time.perf_counter())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        assert constraint.push(token_id), "the books keep to the schema"
        times.append(time.perf_counter())
        begun, found, launched, applied, pushed = times
        place = {"find": found - begun, "apply": applied - found, "take": pushed - applied}
        if device.type == "cuda":
            place["launch"] = launched - found
        places.append({**place, "tokens": int(np.bitwise_count(mask.words).sum())})
    return places


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
            request = asking(prompt, response_format=by(SCHEMA), temperature=options.temperature)
            ids, held_s = answer(engine, request)
            text = asking(prompt, ignore_eos=True, temperature=options.temperature)
            free, free_s = answer(engine, text.model_copy(update={"max_new_tokens": len(ids)}))
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
    constraint = constraint_of(engine, request)
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
    shown = Table("", "", title=f"{result['model']}, vocabulary of {result['vocab_size']:,}")
    for kind, spent in result["mask_us"].items():
        shown.add_row(f"{kind.replace('_', ' ')} places", str(spent["places"]))
        for name in sorted(spent.keys() - {"places"}):
            shown.add_row(f"  {name}, p50 / p95", f"{spent[name]['p50']} / {spent[name]['p95']} us")
    if "step" not in result:
        return shown
    step, gain = result["step"], result["forced"]
    shown.add_row("a step, free / held", f"{step['free_us']} / {step['held_us']} us ({step['more_us']:+} us)")
    shown.add_row(
        "JSON by a schema over free text", f"{gain['json_over_free']} ({gain['slowest']} to {gain['fastest']})"
    )
    shown.add_row("tokens that were forced", f"{gain['forced_share']:.0%}")
    shown.add_row(
        "warm-up, and the first grammar after it", f"{result['warm_up_s']} / {result['first_grammar_s']} s"
    )
    return shown


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model-path", type=Path)
    model.add_argument("--shape", choices=[*SHAPES], help="random weights of that shape, made on the device")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="for a shape, or for masks alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--new-tokens", type=int, default=60, help="of each text that shows what a step takes")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="so many of them, to be quicker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", default="auto", choices=["auto", "always", "never"])
    parser.add_argument("--save", metavar="NAME", help="keep the raw figures as results/NAME.json")
    options = parser.parse_args()
    if options.model_path is None and options.shape is None and options.tokenizer is None:
        parser.error("give --model-path, --shape, or --tokenizer for masks alone")
    options.temperature = 0.0 if options.shape is None else 1.0
    return options


if __name__ == "__main__":
    main()
