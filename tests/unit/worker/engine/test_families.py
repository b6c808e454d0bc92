"""Every family of the static path against transformers' generate: exact token equality, however it runs."""

import shutil
import warnings
from functools import cache

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from tests.families import FAMILIES, family_model
from tests.models import CPU, ENGINES, engine_for
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.forward import static_path

from .asking import ForwardClock, answer, ids_of, random_ids, request, start

NEW_TOKENS = 24
KINDS = [kind for kind in ENGINES if kind.startswith("static")]


@cache
def model_of(family: str) -> PreTrainedModel:
    return family_model(family)


@cache
def model_of_few_words(family: str) -> PreTrainedModel:
    """One that repeats itself, so that there is something to draft from."""
    return family_model(family, vocab_size=16)


@cache
def generated(model: PreTrainedModel, prompt: tuple[int, ...], new_tokens: int = NEW_TOKENS) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, max_new_tokens=new_tokens
    )
    answered = output[0, len(prompt) :].tolist()
    assert len(set(answered)) > 1, "the model repeats one token, so that the comparison says little"
    return answered


def plain(engine: Engine, model: PreTrainedModel, monkeypatch) -> None:
    for length in (1, 7, 40):
        prompt = random_ids(length)
        assert ids_of(answer(engine, request(prompt, max_new_tokens=NEW_TOKENS))) == generated(model, (*prompt,))


def a_known_beginning(engine: Engine, model: PreTrainedModel, monkeypatch) -> None:
    answer(engine, request(random_ids(40), max_new_tokens=NEW_TOKENS))
    prompt = [*random_ids(40)[:33], *random_ids(9, seed=1)]
    steps = list(generation := start(engine, request(prompt, max_new_tokens=NEW_TOKENS)))
    assert ids_of(steps) == generated(model, (*prompt,))
    assert generation.cached_tokens == (33 if engine.options.prefix_cache_bytes else 0)


def resumed(engine: Engine, model: PreTrainedModel, monkeypatch) -> None:
    prompt = random_ids(13)
    whole = generated(model, (*prompt,))
    for split in (1, 12, NEW_TOKENS - 1):
        asked = request(prompt, max_new_tokens=NEW_TOKENS)
        assert ids_of(answer(engine, asked, resumed_ids=whole[:split])) == whole[split:]


def to_the_end_of_the_context(engine: Engine, model: PreTrainedModel, monkeypatch) -> None:
    prompt = random_ids(90)
    assert ids_of(answer(engine, request(prompt, max_new_tokens=38))) == generated(model, (*prompt,), 38)


def with_drafts(engine: Engine, model: PreTrainedModel, monkeypatch) -> None:
    clock = ForwardClock(engine, monkeypatch)
    prompt = [1, 2, 3, 4, 5] * 5
    asked = request(prompt, max_new_tokens=100, prompt_lookup=True)
    for _ in range(2):  # the first job learns what a step costs
        assert ids_of(answer(engine, asked)) == generated(model, (*prompt,), 100)
    assert clock.drafts


WAYS = [plain, a_known_beginning, resumed, to_the_end_of_the_context, with_drafts]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_as_generate_does(family, kind, way, tokenizer: Tokenizer, monkeypatch):
    model = model_of_few_words(family) if way is with_drafts else model_of(family)
    way(engine_for(model, tokenizer, kind), model, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_is_as_near_in_half_precision_as_transformers(family, dtype, tokenizer: Tokenizer):
    """Beside the float32 logits, our rounding errors are no larger than those of its modules, but for luck."""
    ids = torch.tensor([random_ids(60)])
    exact = model_of(family)(ids).logits[0, -20:]
    model = family_model(family).to(dtype)
    theirs = model(ids).logits[0, -20:].float()
    path = Engine(model, tokenizer, CPU, EngineOptions(path="static")).path
    ours = path.read(ids, rows=20)
    path.truncate(59)
    step = path.decode(ids[:, 59:])
    error = (theirs - exact).std()
    assert (ours - exact).std() < 1.5 * error
    assert (step - exact[-1]).std() < 2 * error


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")


def compiled(family: str, tokenizer: Tokenizer, *, ranges: bool) -> Engine:
    torch._dynamo.reset()
    options = EngineOptions(path="static", compile="always", prompt_lookup=False)
    engine = Engine(model_of(family), tokenizer, CPU, options, ranges=ranges)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch, by torch
        engine.warm_up()
    assert (engine.path.compiled, engine.why) == (True, "")
    return engine


@pytest.mark.slow
@pytest.mark.matrix
@needs_compiler
@pytest.mark.parametrize("ranges", [False, True], ids=["to the end", "in ranges"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_as_generate_does_when_compiled(family, ranges, tokenizer: Tokenizer, monkeypatch):
    engine = compiled(family, tokenizer, ranges=ranges)
    plain(engine, model_of(family), monkeypatch)
    to_the_end_of_the_context(engine, model_of(family), monkeypatch)
    torch._dynamo.reset()


GRAPHS = {"qwen2": 3, "granite": 3, "smollm3": 5}
"""Two of a layer, for the first length and for all others; the head. SmolLM3 has layers of two kinds."""


@pytest.mark.slow
@pytest.mark.parametrize("family", GRAPHS)
def test_is_compiled_once_for_each_kind_of_layer(family, tokenizer: Tokenizer, monkeypatch):
    """What the compiler sees; that the code which it makes of it computes the same is another test's."""
    compile_ = torch.compile
    monkeypatch.setattr(
        static_path.torch,
        "compile",
        lambda step, *, options, dynamic: compile_(step, backend="eager", dynamic=dynamic),
    )
    counters.clear()
    engine = compiled(family, tokenizer, ranges=False)
    assert counters["stats"]["unique_graphs"] == GRAPHS[family]
    plain(engine, model_of(family), monkeypatch)
    assert counters["stats"]["unique_graphs"] == GRAPHS[family]
    torch._dynamo.reset()
