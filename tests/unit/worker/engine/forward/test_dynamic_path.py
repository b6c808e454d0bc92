"""The dynamic path where a cache cannot do all: windows, states, and rotations that change with the length."""

import pytest
import torch
from transformers import PreTrainedModel

from tests.architectures import ARCHITECTURES
from tests.families import toy_model
from tests.models import CPU
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.errors import ConfigError

from ..asking import answer, ids_of, random_ids, request, start

TURNS_AT = 24
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "long_factor": [8.0] * 8, "short_factor": [1.0] * 8,
    "original_max_position_embeddings": TURNS_AT,
}  # fmt: skip
CHANGING = {
    "read again from the beginning": {"model_type": "phi3", "original_max_position_embeddings": TURNS_AT},
    "left as it was read": {"model_type": "llama"},
}
"""What generate does with the keys of before, when a sequence outgrows its original length."""


def generated(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, max_new_tokens=new_tokens
    )
    return output[0, len(prompt) :].tolist()


class TestARotationThatChangesWithTheLength:
    @pytest.fixture(params=CHANGING)
    def model(self, request: pytest.FixtureRequest) -> PreTrainedModel:
        return toy_model(rope_parameters=LONG_ROPE, max_position_embeddings=96, **CHANGING[request.param])

    @pytest.mark.parametrize("lookahead", [0, 2])
    @pytest.mark.parametrize("length", [1, TURNS_AT - 1, TURNS_AT, TURNS_AT + 1, 2 * TURNS_AT])
    def test_is_that_of_generate_also_when_resumed(self, length, lookahead, model, tokenizer: Tokenizer):
        """Keys of before the change stay or go as in generate, whatever piece of the sequence is read at once."""
        options = EngineOptions(prefill_chunk=5, prompt_lookup=True)
        engine = Engine(model, tokenizer, CPU, options, lookahead=lookahead)
        asked = request(random_ids(length), max_new_tokens=40)
        expected = generated(model, random_ids(length), 40)
        for split in {0, 1, max(TURNS_AT - length, 2) - 1, max(TURNS_AT - length, 2), TURNS_AT - length + 25}:
            steps = answer(engine, asked, resumed_ids=expected[:split])
            assert ids_of(steps) == expected[split:], split
        assert not engine.takes_drafts

    def test_is_constant_in_a_context_that_does_not_reach_so_far(self, model, tokenizer: Tokenizer):
        options = EngineOptions(path="dynamic", prefill_chunk=5, context_length=TURNS_AT)
        engine = Engine(model, tokenizer, CPU, options)
        assert engine.takes_drafts
        assert engine.piece_end(0, 20, 20) == 5


@pytest.mark.parametrize("warm_up", [True, False])
@pytest.mark.parametrize("fields", [{"model_type": "qwen2", "return_dict": False}, {"model_type": "cpmant"}])
def test_a_model_on_which_transformers_fails_is_refused_in_words(fields, warm_up, tokenizer: Tokenizer):
    """At the start, or with the first answer; also where it fails with a token behind others, and not alone."""
    engine = Engine(toy_model(**fields), tokenizer, CPU, EngineOptions(path="dynamic"))
    asked = request([5, 6], max_new_tokens=4)
    with pytest.raises(ConfigError, match=r"^this model cannot be served: \w+ fails in transformers .*Error: "):
        engine.warm_up() if warm_up else answer(engine, asked)


class TestASlidingWindow:
    @pytest.mark.parametrize("chunk", [1, 7, 8, 9])
    def test_is_exact_around_the_window_and_the_chunk(self, chunk, tokenizer: Tokenizer):
        model = toy_model(model_type="gemma2", head_dim=16, sliding_window=8)
        engine = Engine(model, tokenizer, CPU, EngineOptions(prefill_chunk=chunk))
        for length in (1, 6, 7, 8, 9, 15, 16, 17):
            asked = request(random_ids(length), max_new_tokens=10)
            assert ids_of(answer(engine, asked)) == generated(model, random_ids(length), 10), length


class TestStates:
    """Models whose layers go on from a state, which knows no positions."""

    @pytest.fixture(params=["Mamba", "LFM2", "RecurrentGemma"])
    def model(self, request: pytest.FixtureRequest) -> PreTrainedModel:
        return toy_model(**ARCHITECTURES[request.param])

    def test_read_a_prompt_in_one_piece_and_take_no_drafts(self, model, tokenizer: Tokenizer):
        engine = Engine(model, tokenizer, CPU, EngineOptions(prefill_chunk=4, prompt_lookup=True))
        assert list(start(engine, request(random_ids(30), max_new_tokens=2)).prefill()) == []
        assert not engine.takes_drafts

    @pytest.mark.parametrize("taken", [0, 1, 5])
    def test_leave_nothing_behind(self, taken, model, tokenizer: Tokenizer):
        """Of a job that was cut short, or that failed; the cache was made under inference mode, and it is dropped
        outside of it."""
        engine = Engine(model, tokenizer, CPU)
        for length in (1, 2, 9):
            asked = request(random_ids(length), max_new_tokens=9)
            expected = ids_of(answer(Engine(model, tokenizer, CPU), asked))
            generation = start(engine, request(random_ids(30), max_new_tokens=9))
            for _ in range(taken):
                next(generation)
            generation.close()
            assert engine.path.length == 0
            assert ids_of(answer(engine, asked)) == expected
