"""Which path a model gets, why it is not the fast one, and that it answers all the same."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.models import CPU, VOCAB_SIZE, random_model
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.errors import ConfigError

from ..asking import ForwardClock, answer, ids_of, request


def qwen2(**changes) -> Qwen2ForCausalLM:
    config = random_model(vocab_size=16).config.to_dict() | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen2ForCausalLM(Qwen2Config(**config)).eval()


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=16, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, eos_token_id=VOCAB_SIZE,
        bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def sliding() -> Qwen2ForCausalLM:
    return qwen2(
        use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=["sliding_attention"] * 2
    )


def stretched() -> Qwen2ForCausalLM:
    return qwen2(rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0})


def quantized() -> Qwen2ForCausalLM:
    model = qwen2()
    model.config.quantization_config = {"quant_method": "awq"}
    return model


UNSUPPORTED = {
    "llama": (llama, "LlamaForCausalLM is not Qwen2ForCausalLM"),
    "sliding window": (sliding, "sliding-window attention"),
    "another activation": (lambda: qwen2(hidden_act="gelu"), "its activation is gelu and not silu"),
    "a rope that changes": (stretched, "its rotary embedding is of type dynamic"),
    "quantized": (quantized, "its weights are quantized"),
}


@pytest.fixture(params=UNSUPPORTED)
def unsupported(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, str]:
    make, why = UNSUPPORTED[request.param]
    return make(), why


class TestUnsupportedModels:
    def test_get_the_dynamic_path_and_the_reason(self, unsupported, tokenizer: Tokenizer):
        model, why = unsupported
        engine = Engine(model, tokenizer, CPU)
        engine.warm_up()
        assert (engine.path.name, engine.path.compiled, engine.path.captured) == ("dynamic", False, False)
        assert why in engine.why

    def test_are_refused_where_static_is_insisted_on(self, unsupported, tokenizer: Tokenizer):
        model, why = unsupported
        with pytest.raises(ConfigError, match=rf"{why}\. Set path to auto"):
            Engine(model, tokenizer, CPU, EngineOptions(path="static"))

    def test_answer_as_transformers_does(self, unsupported, tokenizer: Tokenizer, monkeypatch):
        """Drafts were once taken here too, and failed the job: a sliding window cannot be rolled back."""
        model, _ = unsupported
        engine = Engine(model, tokenizer, CPU)
        ForwardClock(engine, monkeypatch)
        asked = request([1, 2, 3, 4, 5] * 5, max_new_tokens=60)
        answer(engine, asked)  # from here on, the cost of a step is known, and a draft may come at once
        prompt = torch.tensor([asked.prompt_token_ids])
        expected = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, max_new_tokens=60
        )
        assert ids_of(answer(engine, asked)) == expected[0, prompt.shape[1] :].tolist()

    def test_get_drafts_where_the_cache_can_be_rolled_back(self, tokenizer: Tokenizer, monkeypatch):
        asked = request([1, 2, 3, 4, 5] * 5, max_new_tokens=60)
        drafts = {}
        for name, make in (("llama", llama), ("sliding", sliding)):
            engine = Engine(make(), tokenizer, CPU)
            clock = ForwardClock(engine, monkeypatch)
            answer(engine, asked)
            drafts[name] = len(clock.drafts)
        assert drafts["llama"] > 0
        assert drafts["sliding"] == 0


class TestQwen2:
    def test_gets_the_static_path(self, tokenizer: Tokenizer):
        engine = Engine(random_model(), tokenizer, CPU)
        assert (engine.path.name, engine.why) == ("static", "")

    def test_gets_the_dynamic_path_when_told_so(self, tokenizer: Tokenizer):
        engine = Engine(random_model(), tokenizer, CPU, EngineOptions(path="dynamic"))
        assert (engine.path.name, engine.why) == ("dynamic", "path is set to dynamic")

    @pytest.mark.parametrize("compile_", ["auto", "never"])
    def test_is_not_compiled_where_that_gains_little(self, compile_, tokenizer: Tokenizer):
        engine = Engine(random_model(), tokenizer, CPU, EngineOptions(compile=compile_))
        stages = []
        engine.warm_up(lambda *stage: stages.append(stage))
        assert (engine.path.compiled, engine.why, stages) == (False, "", [])

    @pytest.mark.parametrize(
        "rope",
        [
            {"rope_type": "default", "rope_theta": 5_000.0},
            {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
            {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32},
        ],
        ids=lambda rope: rope["rope_type"],
    )
    def test_with_every_rope_that_is_said_to_be_known(self, rope, tokenizer: Tokenizer):
        model = qwen2(rope_parameters=rope)
        asked = request([1, 2, 3, 4, 5], max_new_tokens=120)
        expected = answer(Engine(model, tokenizer, CPU, EngineOptions(path="dynamic")), asked)
        assert answer(Engine(model, tokenizer, CPU, EngineOptions(path="static")), asked) == expected
