"""What is chosen: processed logits and choices against transformers' generate, samples against softmax."""

import math
import random

import pytest
import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    Qwen2ForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from producer.contract import GenerationRequest, SamplingParams
from tests.models import CPU, VOCAB_SIZE, engine_for, random_model
from worker.engine import Tokenizer
from worker.engine.sampling.noise import GumbelNoise
from worker.engine.sampling.processors import apply, build_cutoffs, build_processors
from worker.engine.sampling.sampler import NOT_A_TOKEN, Sampler

EOS = [3, 4]
PROMPT = random.Random(1).choices(range(VOCAB_SIZE), k=9)

# Each field alone, and all of them. transformers takes them under the same names.
FIELDS = {
    "temperature": {"temperature": 0.7},
    "top_k": {"temperature": 1.0, "top_k": 40},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "min_p": {"temperature": 1.0, "min_p": 0.05},
    "repetition_penalty": {"temperature": 1.0, "repetition_penalty": 1.4},
    "min_new_tokens": {"temperature": 1.0, "min_new_tokens": 8},
    "all": {
        "temperature": 1.3, "top_k": 60, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2,
        "min_new_tokens": 8,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return random_model(eos_token_id=EOS)


def generate(model: Qwen2ForCausalLM, **options):
    prompt = torch.tensor([PROMPT])
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=16,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )


class Noise(LogitsProcessor):
    """Our noise as a processor of transformers."""

    def __init__(self, seed: int) -> None:
        self.noise = GumbelNoise(seed, CPU)

    def __call__(self, input_ids, scores):
        return scores + self.noise(input_ids.shape[1] - len(PROMPT), scores.shape[-1])


class TestProcessors:
    @pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
    def test_give_the_scores_of_transformers_sampling(self, fields, model):
        """transformers builds its own chain here: its order and its edge cases are what we compare with."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            theirs = generate(model, do_sample=True, **{"top_k": 0, **fields})
        ours = build_processors(
            SamplingParams(**fields), prompt_length=len(PROMPT), eos_token_ids=frozenset(EOS), device=CPU
        )
        cutoffs = build_cutoffs(SamplingParams(**fields))
        for step, (logits, scores) in enumerate(zip(theirs.logits, theirs.scores, strict=True)):
            ids = theirs.sequences[:, : len(PROMPT) + step]
            torch.testing.assert_close(apply([*ours, *cutoffs], ids, logits), scores, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("seed", [0, 7])
    @pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
    def test_and_the_noise_choose_what_transformers_chooses_with_them(self, fields, seed, model, tokenizer):
        warpers = [
            TemperatureLogitsWarper(fields["temperature"]),
            *([TopKLogitsWarper(fields["top_k"])] if "top_k" in fields else []),
            *([TopPLogitsWarper(fields["top_p"])] if "top_p" in fields else []),
            *([MinPLogitsWarper(fields["min_p"])] if "min_p" in fields else []),
        ]
        own = {name: fields[name] for name in ("repetition_penalty", "min_new_tokens") if name in fields}
        theirs = generate(model, do_sample=False, logits_processor=[*warpers, Noise(seed)], **own)

        asked = GenerationRequest(prompt_token_ids=PROMPT, max_new_tokens=16, **fields)
        engine = engine_for(model, tokenizer)
        ours = [step.token_id for step in engine.start(asked, engine.encode(asked), seed=seed)]
        assert ours == theirs.sequences[0, len(PROMPT) :].tolist()

    def test_nothing_runs_for_fields_at_their_defaults(self):
        sampler = Sampler(SamplingParams(), seed=1, prompt_length=3, eos_token_ids=frozenset(EOS), device=CPU)
        assert not sampler.needs_ids
        assert not build_processors(
            SamplingParams(temperature=1.0), prompt_length=3, eos_token_ids=frozenset(EOS), device=CPU
        )


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities.double() * counts.sum()
    return ((counts - expected) ** 2 / expected).sum().item()


class TestSamples:
    """The draws are fixed by their seeds, so that these tests give the same figure every time."""

    DRAWS = 4000
    LOGITS = torch.linspace(-1.5, 1.5, 16)[None]
    CRITICAL_15 = 37.7
    """Of chi-square with 15 degrees of freedom, at p = 0.001."""

    def draw(self, params: SamplingParams, *, over: str) -> torch.Tensor:
        tokens = torch.empty(self.DRAWS, dtype=torch.int64)
        for i in range(self.DRAWS):
            seed, position = (42, i) if over == "positions" else (i, 42)
            if i == 0 or over == "seeds":
                sampler = Sampler(params, seed=seed, prompt_length=0, eos_token_ids=frozenset(), device=CPU)
            tokens[i] = sampler.choose(self.LOGITS, torch.empty(1, 0, dtype=torch.int64), position)
        return tokens

    @pytest.mark.parametrize("over", ["positions", "seeds"])
    def test_follow_the_softmax_at_the_temperature(self, over):
        tokens = self.draw(SamplingParams(temperature=0.8), over=over)
        expected = (self.LOGITS[0] / 0.8).softmax(-1)
        assert chi_square(tokens.bincount(minlength=16), expected) < self.CRITICAL_15
        assert chi_square(tokens.bincount(minlength=16), self.LOGITS[0].softmax(-1)) > 2 * self.CRITICAL_15

    def test_at_neighbouring_positions_are_independent(self):
        tokens = self.draw(SamplingParams(temperature=0.8), over="positions") // 4
        pairs = (4 * tokens[:-1] + tokens[1:])[::2]  # of tokens in four groups; every position in one pair
        groups = (self.LOGITS[0] / 0.8).softmax(-1).view(4, 4).sum(-1)
        assert chi_square(pairs.bincount(minlength=16), torch.outer(groups, groups).flatten()) < self.CRITICAL_15

    def test_stay_within_top_k(self):
        tokens = self.draw(SamplingParams(temperature=1.0, top_k=4), over="positions")
        assert set(tokens.tolist()) == {12, 13, 14, 15}

    @pytest.mark.parametrize("fields", [{}, {"temperature": 0.8}, {"temperature": 0.8, "top_k": 12, "top_p": 0.9}])
    @pytest.mark.parametrize("may_wait", [True, False], ids=["on a CPU", "on a GPU"])
    def test_stay_within_what_may_come_and_are_the_same_there(self, fields, may_wait):
        params = SamplingParams(**fields)
        sampler = Sampler(
            params, seed=3, prompt_length=0, eos_token_ids=frozenset(), device=CPU, may_wait=may_wait
        )
        bias = torch.full((1, 16), -math.inf)
        bias[0, [2, 9, 11]] = 0
        none = torch.empty(1, 0, dtype=torch.int64)
        for position in range(40):
            token = sampler.choose(self.LOGITS, none, position, bias)
            assert token.item() in {2, 9, 11}
            assert token.tolist() == sampler.choose(self.LOGITS + bias, none, position).tolist()
        assert sampler.choose(self.LOGITS, none, 0, torch.full_like(bias, -math.inf)).item() == NOT_A_TOKEN

    def test_at_a_temperature_too_small_to_divide_by_are_greedy(self):
        sampler = Sampler(
            SamplingParams(temperature=1e-40, top_p=0.5),
            seed=1,
            prompt_length=0,
            eos_token_ids=frozenset(),
            device=CPU,
        )
        assert sampler.choose(self.LOGITS, torch.empty(1, 0, dtype=torch.int64), 0).tolist() == [[15]]


def test_tokens_of_a_sampled_job_do_not_depend_on_torchs_generator(model: Qwen2ForCausalLM, tokenizer: Tokenizer):
    engine = engine_for(model, tokenizer)
    asked = GenerationRequest(prompt_token_ids=PROMPT, max_new_tokens=12, temperature=1.0)
    with torch.random.fork_rng():
        runs = []
        for torch_seed in (1, 2):
            torch.manual_seed(torch_seed)
            runs.append(list(engine.start(asked, engine.encode(asked), seed=9)))
    assert runs[0] == runs[1]
    assert runs[0] != list(engine.start(asked, engine.encode(asked), seed=10))


EXTREMES = {
    "temperature": [1e-300, 1e-40, 1.1e-5, 100.0],
    "top_p": [5e-324, 1e-40, 1e-9, 1.0],
    "top_k": [1, 10**30],
    "min_p": [5e-324, 1e-40, 1.0],
    "repetition_penalty": [0.01, 100.0],
    "presence_penalty": [-100.0, 100.0],
    "frequency_penalty": [-100.0, 100.0],
}


@pytest.mark.parametrize("device_is_cpu", [True, False], ids=["on a CPU", "as on a GPU"])
@pytest.mark.parametrize("field", EXTREMES)
def test_no_number_that_a_request_may_hold_makes_numbers_of_logits_that_are_none(field, device_is_cpu):
    """They would be blamed on the weights: a repetition penalty of 1e-40 was."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)) * 1000
    ids = torch.arange(40)[None].repeat(1, 30)
    for value in EXTREMES[field]:
        for beside in ({}, {"temperature": 1.1e-5}, {"temperature": 100.0}, {"repetition_penalty": 0.01}):
            params = GenerationRequest.parse({"prompt": "x", **beside, field: value})
            sampler = Sampler(params, seed=3, prompt_length=9, eos_token_ids=frozenset(EOS), device=CPU)
            sampler._candidates = sampler._candidates if device_is_cpu else None
            assert 0 <= sampler.choose(logits, ids, 5).item() < 50
