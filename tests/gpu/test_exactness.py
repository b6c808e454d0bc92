"""The engine on a GPU against transformers' generate there: float32 token by token, bfloat16 by logits."""

import copy

import pytest
import torch
from torch import Tensor

from producer.contract import GenerationRequest
from tests.families import FAMILIES, family_model
from tests.models import CPU, random_model
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.reuse.prompt_lookup import SpeculationCost

CONTEXT = 128
LONG_CONTEXT = 640
COMPILED = EngineOptions(path="static", compile="always")
UNCOMPILED = EngineOptions(compile="never")
SAMPLING = {
    "greedy": {},
    "sampled": {"temperature": 1.0},
    "everything": {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1,
                   "presence_penalty": 0.2, "frequency_penalty": 0.1, "min_new_tokens": 5},
}  # fmt: skip
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "born": {"type": "integer"}},
    "required": ["name", "born"],
    "additionalProperties": False,
}
AS_PEOPLE = {
    "type": "json_schema",
    "json_schema": {"name": "people", "schema": {"type": "array", "items": PERSON, "minItems": 3, "maxItems": 5}},
}
ONE_OF = {"type": "choice", "choice": ["a queue of jobs, and one of workers", "a queue of jobs, and no more"]}
HELD = {"schema": {"response_format": AS_PEOPLE}, "forced": {"grammar": ONE_OF}}


def ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 700, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def answer(engine: Engine, prompt: list[int], *, resumed: list[int] = (), **fields) -> list[int]:
    asked = GenerationRequest(prompt_token_ids=tuple(prompt), **fields)
    generation = engine.start(asked, engine.encode(asked), seed=7, resumed_ids=resumed)
    found = [step.token_id for step in generation]
    generation.close()
    return found


def generate(model, prompt: list[int], new_tokens: int) -> list[int]:
    asked = torch.tensor([prompt], device=model.device)
    mask = torch.ones_like(asked)
    found = model.generate(asked, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_captured(family, on, gpu, tokenizer: Tokenizer):
    model = family_model(family, max_position_embeddings=CONTEXT)
    theirs = on(model)
    engine = Engine(on(model), tokenizer, gpu, UNCOMPILED)
    engine.warm_up()
    assert engine.path.captured == (engine.path.name == "static")
    for length in (1, 30, 100):
        expected = generate(theirs, ids(length), 24)
        assert answer(engine, ids(length), max_new_tokens=24)[: len(expected)] == expected


@pytest.fixture(scope="module")
def model():
    return random_model("gqa 7:1", context_length=LONG_CONTEXT)


@pytest.fixture(scope="module")
def engine(model, gpu, tokenizer: Tokenizer) -> Engine:
    """Compiled, captured, and made of our kernels."""
    engine = Engine(copy.deepcopy(model).to(gpu), tokenizer, gpu, COMPILED)
    engine.warm_up()
    path = engine.path
    assert (path.has_kernels, path.compiled, path.captured, engine.why) == (True, True, True, "")
    return engine


@pytest.fixture(scope="module")
def reference(model, tokenizer: Tokenizer) -> Engine:
    return Engine(copy.deepcopy(model), tokenizer, CPU, EngineOptions(compile="never", prompt_lookup=False))


class TestCompiled:
    """One model through all that a worker does."""

    @pytest.mark.parametrize("length", [1, 20, 255, 256, 500])
    def test_greedy_is_generate(self, length, engine, on, model):
        assert answer(engine, ids(length), max_new_tokens=100) == generate(on(model), ids(length), 100)

    @pytest.mark.parametrize("drafts", [False, True])
    @pytest.mark.parametrize("fields", SAMPLING.values(), ids=SAMPLING)
    def test_a_seed_draws_as_on_the_cpu(self, fields, drafts, engine, reference):
        for length in (3, 300):
            expected = answer(reference, ids(length), max_new_tokens=150, **fields)
            assert answer(engine, ids(length), max_new_tokens=150, prompt_lookup=drafts, **fields) == expected

    def test_drafts_are_captured_steps(self, engine, reference, monkeypatch: pytest.MonkeyPatch):
        rows: list[int] = []
        step = engine.path._step
        monkeypatch.setattr(engine.path, "_step", lambda ids, start: rows.append(len(ids)) or step(ids, start))
        monkeypatch.setattr(engine, "speculation_cost", SpeculationCost())  # whatever drafts have cost so far
        prompt = [5] * 100  # the random model repeats what it has said after few others
        expected = answer(reference, prompt, max_new_tokens=300)
        assert answer(engine, prompt, max_new_tokens=300, prompt_lookup=True) == expected
        assert set(rows) >= {1, 8}, "no draft was checked, so that this says nothing"

    def test_a_resumed_job_goes_on(self, engine, reference):
        expected = answer(reference, ids(50), max_new_tokens=100, temperature=1.0)
        for cut in (1, 37, 99):
            rest = answer(engine, ids(50), max_new_tokens=100, temperature=1.0, resumed=expected[:cut])
            assert rest == expected[cut:]

    @pytest.mark.parametrize("drafts", [False, True])
    @pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}], ids=["greedy", "sampled"])
    @pytest.mark.parametrize(
        "held", [{"response_format": AS_PEOPLE}, {"grammar": ONE_OF}], ids=["schema", "forced"]
    )
    def test_an_answer_is_held_to_a_structure_and_resumed_in_it(self, held, sampling, drafts, engine, reference):
        expected = answer(reference, ids(30), max_new_tokens=200, **sampling, **held)
        for cut in (0, 1, len(expected) // 2):
            fields = {"max_new_tokens": 200, "prompt_lookup": drafts, **sampling, **held}
            assert answer(engine, ids(30), resumed=expected[:cut], **fields) == expected[cut:]

    def test_beginnings_that_are_held_and_parked(self, engine, reference):
        for seed in (1, 2, 1, 3, 2, 1):
            prompt = [*ids(200, seed), seed]
            assert answer(engine, prompt, max_new_tokens=40) == answer(reference, prompt, max_new_tokens=40)

    def test_bfloat16_is_as_near_to_float32_as_transformers_is(self, model, on, gpu, tokenizer: Tokenizer):
        half = on(model).to(torch.bfloat16)
        whole = half.float()
        engine = Engine(on(model).to(torch.bfloat16), tokenizer, gpu, COMPILED)
        engine.warm_up()
        assert engine.path.has_kernels
        sequence = torch.tensor([ids(500)], device=gpu)
        with torch.inference_mode():
            right = whole(sequence).logits[0]
            theirs = on(model).to(torch.bfloat16)(sequence).logits[0].float()
            steps = torch.cat([engine.path.decode(sequence[:, at : at + 1]).clone() for at in range(500)])
            engine.path.truncate(0)
            drafts = torch.cat(
                [engine.path.read(sequence[:, at : at + 8], rows=8).clone() for at in range(0, 400, 8)]
            )
            engine.path.truncate(0)
        assert off(steps, right) < 1.2 * off(theirs, right)
        assert off(drafts, right[:400]) < 1.2 * off(theirs, right)


def off(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()
