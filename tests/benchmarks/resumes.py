"""Answers that are cut, resumed and disturbed, beside the same ones undisturbed: how many differ, and the cost.

    python -m tests.benchmarks.resumes --model-path FOLDER --answers 200 [--device cuda:0] [--save NAME]
    python -m tests.benchmarks.resumes --shape qwen2-0.5b --device cuda:0

Each answer is first given by an engine that knows nothing. Then it comes again, in another order, with drafts: it
is stopped at a random token and goes on, from its parked keys and values, from what the cache still holds, or
where nothing is known, as in another worker. In between, neighbours that begin alike are cancelled, while they are
read or answered. One in eight is held to a schema, whose forced tokens are read together. Both modes do the same,
in turn, in one dtype. `digest` is of all undisturbed answers: the same in two processes, or their starts differ.
The last line of stdout is a JSON object.
"""

import argparse
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from producer.contract import GenerationRequest
from tests.models import save_tokenizer
from worker.engine import Engine, EngineOptions, Generation, ModelLoader, Tokenizer, resolve_device
from worker.engine.reuse.prefix_cache import PrefixCache

from .engine import RESULTS, commit, hardware, versions
from .shapes import SHAPES, build

CONTEXT = 1024
AT_A_TIME = 10
MODES = {"usual": False, "deterministic": True}
BEGINNINGS = (
    "You are a careful assistant, and you answer in the language of the question. Be brief, give an example where "
    "it helps, and say so where you do not know. Numbers are given with their units. ",
    "Below is a log of a service that reads jobs from a queue. job 1: read, 12 ms. job 2: read, 14 ms. job 3: "
    "read, 11 ms. job 4: read, 13 ms. job 5: failed, 2 ms. job 6: read, 12 ms. What follows goes on in the same "
    "way. ",
    "",
)
QUESTIONS = (
    "The capital of France is", "Once upon a time, in a small village by the sea,", "1, 1, 2, 3, 5, 8, 13,",
    "Die Hauptstadt von Österreich ist", "El río más largo de América del Sur es", "中国的首都是",
    "def fibonacci(n):\n    ", "SELECT name, COUNT(*) FROM users WHERE", "job 7: read,", "A poem about queues:",
    "The three laws of robotics are", "In 1815,", "Dear Sir or Madam,",
    "import asyncio\n\nasync def main():\n    ",
)  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "year_of_birth": {"type": "integer"}},
    "required": ["name", "year_of_birth"],
    "additionalProperties": False,
}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}


@dataclass(frozen=True)
class Job:
    """A request, and its seed."""

    request: GenerationRequest
    seed: int


@dataclass
class Mode:
    """One engine, and what was seen on it. Milliseconds."""

    engine: Engine
    undisturbed: list[list[int]] = field(default_factory=list)
    differing: list[int] = field(default_factory=list)
    """Numbers of answers."""
    reused_tokens: int = 0
    drafts: int = 0
    """That were checked."""
    prompt_ms: list[float] = field(default_factory=list)
    """To read a whole prompt."""
    step_ms: list[float] = field(default_factory=list)
    """A token, of an undisturbed answer."""
    resume_ms: list[float] = field(default_factory=list)
    """To read prompt and output where nothing is known."""
    resumed_tokens: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """For programs."""
        return {
            "answers": len(self.undisturbed),
            "differ": len(self.differing),
            "which": self.differing,
            "reused_tokens": self.reused_tokens,
            "drafts": self.drafts,
            "prompt_ms": _median(self.prompt_ms),
            "step_ms": _median(self.step_ms),
            "resume_ms": _median(self.resume_ms),
            "resumed_output_tokens": _median(self.resumed_tokens),
            "digest": hashlib.sha256(json.dumps(self.undisturbed).encode()).hexdigest()[:16],
        }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the modes on one model."""
    device = resolve_device(options.device)
    modes = dict(make_modes(options, device))
    first = next(iter(modes.values()))
    jobs = make_jobs(
        first.engine, options.answers, options.new_tokens, options.seed, random_weights=not options.model_path
    )
    result: dict[str, Any] = {}
    for _ in measure(modes, jobs, options.seed):
        result = {
            "hardware": hardware(device),
            "versions": versions(),
            "commit": commit(),
            "model": options.model_path.name if options.model_path else options.shape,
            "dtype": str(first.engine.dtype).removeprefix("torch."),
            "path": first.engine.path.name,
            "compiled": first.engine.path.compiled,
            "captured": first.engine.path.captured,
            "threads": torch.get_num_threads(),
            "modes": {name: mode.figures() for name, mode in modes.items()},
        }
        if options.save:  # so far: a run that is cut off must not be lost
            (RESULTS / f"{options.save}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure(modes: dict[str, Mode], jobs: Sequence[Job], seed: int) -> Iterator[None]:
    """Fill in what is seen, some answers at a time: yields after each of these."""
    for first in range(0, len(jobs), AT_A_TIME):
        numbers = range(first, min(first + AT_A_TIME, len(jobs)))
        for number in numbers:
            for mode in modes.values():
                _forget(mode.engine)
                mode.undisturbed.append(_whole(mode, jobs[number]))
        for number in random.Random(seed).sample(numbers, len(numbers)):
            for mode in modes.values():
                choose = random.Random(f"{seed} {number}")
                if _disturbed(mode, jobs, number, choose) != mode.undisturbed[number]:
                    mode.differing.append(number)
        differing = ", ".join(f"{name}: {len(mode.differing)}" for name, mode in modes.items())
        _say(f"{numbers.stop} of {len(jobs)}; differ: {differing}")
        yield


def _whole(mode: Mode, job: Job) -> list[int]:
    """The answer of an engine that knows nothing, without drafts."""
    request = job.request.model_copy(update={"prompt_lookup": False})
    with closing(_start(mode.engine, request, job.seed)) as generation:
        ids = [next(generation).token_id]
        started_at = time.perf_counter()
        ids += [step.token_id for step in generation]
        mode.step_ms.append((time.perf_counter() - started_at) * 1000 / max(len(ids) - 1, 1))
        mode.prompt_ms.append(generation.prefill_ms or 0.0)
    return ids


def _disturbed(mode: Mode, jobs: Sequence[Job], number: int, choose: random.Random) -> list[int]:
    """Stopped once and resumed, among neighbours."""
    engine, job, run = mode.engine, jobs[number], number + 1
    with closing(_start(engine, job.request, job.seed)) as generation:
        taken = islice(generation, choose.randrange(len(mode.undisturbed[number]) + 1))
        ids = [step.token_id for step in taken]
    mode.reused_tokens += generation.cached_tokens
    fate = choose.choice(["parked", "held", "forgotten"])
    if fate == "parked":
        generation.park(run)
        for _ in range(2):
            engine.keep_parked([run])
            _neighbour(engine, choose.choice(jobs), choose)
        engine.keep_parked([run])
    elif fate == "forgotten":
        _neighbour(engine, choose.choice(jobs), choose)
        _forget(engine)
    with closing(_start(engine, job.request, job.seed, ids)) as rest:
        resumed = [step.token_id for step in rest]
    if fate == "forgotten" and ids and rest.prefill_ms is not None:
        mode.resume_ms.append(rest.prefill_ms)
        mode.resumed_tokens.append(len(ids))
    if fate == "held":
        _neighbour(engine, choose.choice(jobs), choose)
    return [*ids, *resumed]


def _neighbour(engine: Engine, job: Job, choose: random.Random) -> None:
    """Cancelled, in its prompt or in its answer."""
    with closing(_start(engine, job.request, job.seed + 1)) as generation:
        if choose.random() < 0.3:
            next(iter(generation.prefill()), None)
        else:
            list(islice(generation, choose.randrange(1, 5)))


def _start(engine: Engine, request: GenerationRequest, seed: int, resumed_ids: Sequence[int] = ()) -> Generation:
    return engine.start(request, engine.encode(request), seed=seed, resumed_ids=resumed_ids)


def _forget(engine: Engine) -> None:
    """As an engine that has just been started."""
    engine.abandon(engine.sequence)
    if isinstance(engine._prefixes, PrefixCache):
        engine._prefixes._parked.clear()


def make_jobs(engine: Engine, count: int, new_tokens: int, seed: int, *, random_weights: bool) -> list[Job]:
    """Texts for a trained model, and ids for random weights."""
    choose = random.Random(seed)
    vocabulary = range(3, engine.vocab_size)
    jobs = []
    for number in range(count):
        beginning, question = choose.choice(BEGINNINGS), choose.choice(QUESTIONS)
        if random_weights:
            known = random.Random(beginning).choices(vocabulary, k=len(beginning) // 2)
            ids = [*known, *random.Random(question).choices(vocabulary, k=len(question))]
        else:
            ids = engine.tokenizer.encode(beginning + question).tolist()
        # Greedy text of random weights goes round in circles, where nothing is near anything.
        temperature = 1.0 if random_weights else choose.choice([0.0, 0.0, 0.7, 1.0])
        fields: dict[str, Any] = {"response_format": AS_SCHEMA} if number % 8 == 7 else {"ignore_eos": True}
        request = GenerationRequest.parse(
            {
                "prompt_token_ids": ids,
                "max_new_tokens": choose.randint(new_tokens // 2, new_tokens),
                "temperature": temperature,
                "prompt_lookup": True,
                **fields,
            }
        )
        jobs.append(Job(request, seed=choose.randrange(2**31)))
    return jobs


def make_modes(options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Mode]]:
    """Both on the same weights."""
    with TemporaryDirectory() as folder:
        path = options.model_path or save_tokenizer(Path(folder))
        tokenizer = Tokenizer(path)
        model = _model(options, device)
        for name in options.modes:
            settings = EngineOptions(
                deterministic=MODES[name],
                path=options.path,
                compile=options.compile,
                context_length=CONTEXT,
                prefill_chunk=options.prefill_chunk,
            )
            engine = Engine(model, tokenizer, device, settings)
            _say(f"{name}: warming up")
            engine.warm_up()
            mode = Mode(engine)
            _count_passes(mode)
            yield name, mode


def _model(options: argparse.Namespace, device: torch.device) -> PreTrainedModel:
    if options.model_path:
        return ModelLoader(options.model_path, options.dtype).load(device)
    model = build(options.shape, device, getattr(torch, options.dtype))
    with torch.no_grad():
        model.model.norm.weight.mul_(4)  # logits as far apart as a trained model's, and their rounding as large
    return model


def _count_passes(mode: Mode) -> None:
    """Those over a draft."""
    engine = mode.engine
    read_draft = engine.read_draft

    def counted(ids: torch.Tensor) -> torch.Tensor:
        mode.drafts += 1
        return read_draft(ids)

    engine.read_draft = counted  # type: ignore[method-assign]


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure both modes, print a line for people about each, and one for programs."""
    options = parse(sys.argv[1:])
    if options.threads:
        torch.set_num_threads(options.threads)
    result = compare(options)
    for name, figures in result["modes"].items():
        _say(f"{name}: {figures['differ']} of {figures['answers']} differ ({figures})")
    print(json.dumps(result))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", type=Path, help="a trained model; without one, random weights")
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="of random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--path", choices=["auto", "static", "dynamic"], default="auto")
    parser.add_argument("--compile", choices=["auto", "always", "never"], default="auto")
    parser.add_argument("--prefill-chunk", type=int, help="tokens; where not the device's own")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[*MODES])
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=32, help="half to all of so many each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", metavar="NAME", help="keep the result as tests/benchmarks/results/NAME.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
