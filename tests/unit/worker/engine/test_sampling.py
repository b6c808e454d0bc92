"""Processors against transformers' own, noise against SplitMix64's published values, samples against softmax."""

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
from worker.engine.noise import GumbelNoise, split_mix_64, to_open_unit_interval
from worker.engine.processors import apply, build_cutoffs, build_processors
from worker.engine.sampling import Sampler

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

    def test_presence_and_frequency_penalty_count_the_output_alone(self):
        chain = build_processors(
            SamplingParams(presence_penalty=0.5, frequency_penalty=0.25),
            prompt_length=2,
            eos_token_ids=frozenset(),
            device=CPU,
        )
        ids = torch.tensor([[0, 1, 2, 2, 2, 3]])  # prompt 0 1, output 2 2 2 3
        scores = apply(chain, ids, torch.zeros(1, 5))
        assert scores.tolist() == [[0.0, 0.0, -0.5 - 3 * 0.25, -0.5 - 0.25, 0.0]]

    def test_presence_penalty_alone_does_not_count_occurrences(self):
        chain = build_processors(
            SamplingParams(presence_penalty=-1.0), prompt_length=1, eos_token_ids=frozenset(), device=CPU
        )
        assert apply(chain, torch.tensor([[0, 2, 2]]), torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 1.0]]


class TestNoise:
    def test_is_made_of_split_mix_64(self):
        """The outputs for seed 1234567 that implementations are checked with (Rosetta Code, Splitmix64)."""
        expected = [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ]
        outputs = split_mix_64(torch.tensor(1234567), torch.arange(5))
        assert [value % 2**64 for value in outputs.tolist()] == expected

    def test_reaches_neither_end_of_the_unit_interval(self):
        """At 0 the noise would be minus infinity, and at 1 plus infinity: a token that wins whatever its logit."""
        lowest, highest = to_open_unit_interval(torch.tensor([0, -1])).tolist()  # no bit set, and every bit
        assert 0 < lowest < 1e-15
        assert 1 - 1e-15 < highest < 1

    def test_depends_on_seed_position_and_token_and_on_nothing_else(self):
        noise = GumbelNoise(5, CPU)
        assert torch.equal(noise(3, 1000), GumbelNoise(5, CPU)(3, 1000))
        assert torch.equal(noise(3, 1000)[:100], noise(3, 100))
        assert not torch.isin(noise(3, 1000), noise(4, 1000)).any()
        assert not torch.isin(noise(3, 1000), GumbelNoise(6, CPU)(3, 1000)).any()

    @pytest.mark.parametrize("vocab_size", [7, 800, 20_000])
    def test_is_the_same_whatever_was_asked_for_before(self, vocab_size):
        """It is worked out for many positions at once: an earlier, a later or a first one gives the same."""
        noise = GumbelNoise(5, CPU)
        for position in (0, 1, 2, 40, 39, 3000, 5):
            assert torch.equal(noise(position, vocab_size), GumbelNoise(5, CPU)(position, vocab_size))

    @pytest.mark.parametrize("vocab_size", [800, 20_000])
    def test_of_some_tokens_is_theirs_among_all(self, vocab_size):
        tokens = torch.tensor([0, 17, 799])
        noise = GumbelNoise(5, CPU)
        for position in (0, 1, 40):
            few = torch.from_numpy(noise.of(tokens.numpy(), position, vocab_size))
            assert torch.equal(few, noise(position, vocab_size)[tokens])

    @pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
    def test_is_standard_gumbel(self, seed):
        """Mean: Euler's gamma. Variance: pi^2/6. And it is finite everywhere."""
        noise = torch.cat([GumbelNoise(seed, CPU)(position, 150_000) for position in range(4)]).double()
        assert noise.isfinite().all()
        assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
        assert noise.var().item() == pytest.approx(1.64493, abs=0.03)


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities.double() * counts.sum()
    return ((counts - expected) ** 2 / expected).sum().item()


class TestSamples:
    """The draws are fixed by their seeds, so that these tests give the same figure every time."""

    DRAWS = 8000
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
        assert chi_square(tokens.bincount(minlength=16), self.LOGITS[0].softmax(-1)) > 5 * self.CRITICAL_15

    def test_at_neighbouring_positions_are_independent(self):
        tokens = self.draw(SamplingParams(temperature=0.8), over="positions") // 4
        pairs = (4 * tokens[:-1] + tokens[1:])[::2]  # of tokens in four groups; every position in one pair
        groups = (self.LOGITS[0] / 0.8).softmax(-1).view(4, 4).sum(-1)
        assert chi_square(pairs.bincount(minlength=16), torch.outer(groups, groups).flatten()) < self.CRITICAL_15

    def test_stay_within_top_k(self):
        tokens = self.draw(SamplingParams(temperature=1.0, top_k=4), over="positions")
        assert set(tokens.tolist()) == {12, 13, 14, 15}

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
