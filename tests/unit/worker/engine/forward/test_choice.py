"""Which path a model gets, why it is not the fast one, and that it answers all the same."""

import inspect
import re
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
import transformers
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel, cache_utils, masking_utils, modeling_rope_utils

from tests.families import FAMILIES, family_model, toy_model
from tests.models import CPU, random_model
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.forward import architecture, static_path
from worker.errors import ConfigError

from ..asking import ForwardClock, answer, ids_of, request

qwen2 = partial(family_model, "qwen2", vocab_size=16)
llama = partial(family_model, "llama 2", vocab_size=16)
mistral = partial(family_model, "mistral", vocab_size=16)


def sliding() -> PreTrainedModel:
    return qwen2(
        use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=["sliding_attention"] * 2
    )


def quantized() -> PreTrainedModel:
    model = qwen2()
    model.config.quantization_config = {"quant_method": "awq"}
    return model


def subclass() -> PreTrainedModel:
    """Of which nothing is known: it may compute whatever it likes."""
    model = llama()
    model.__class__ = type("LlamaForCausalLM", (LlamaForCausalLM,), {})
    return model


def adapted() -> PreTrainedModel:
    class WithAdapter(nn.Linear):
        pass

    model = llama()
    model.model.layers[1].self_attn.o_proj.__class__ = WithAdapter
    return model


def hooked() -> PreTrainedModel:
    model = llama()
    model.model.layers[1].register_forward_hook(lambda *_: None)
    return model


def with_another_parameter() -> PreTrainedModel:
    model = llama()
    model.model.layers[0].self_attn.sinks = nn.Parameter(torch.zeros(4))
    return model


def told(model: PreTrainedModel, **fields: object) -> PreTrainedModel:
    """With fields that its class does not declare, and that what all models share reads all the same."""
    for name, value in fields.items():
        setattr(model.config, name, value)
    return model


UNSUPPORTED = {
    "another class": (
        lambda: toy_model(model_type="gpt_neox", vocab_size=16), "does not know GPTNeoXForCausalLM"
    ),
    "a mixture of experts": (
        lambda: toy_model(model_type="mixtral", vocab_size=16),
        "does not know MixtralForCausalLM, which has a mixture of experts",
    ),
    "soft-capping": (
        lambda: toy_model(model_type="gemma2", vocab_size=16, head_dim=16, sliding_window=8),
        "does not know Gemma2ForCausalLM, which has soft-capped logits and sliding windows",
    ),
    "a subclass": (subclass, "does not know LlamaForCausalLM"),
    "an adapter": (adapted, "module model.layers.1.self_attn.o_proj was replaced"),
    "a hook": (hooked, "module model.layers.1 was replaced or changed"),
    "another parameter": (with_another_parameter, "in model.layers.0.self_attn.sinks"),
    "sliding window": (sliding, "sees the last 8 tokens alone"),
    "a window for all layers": (lambda: mistral(sliding_window=8), "sees the last 8 tokens alone"),
    "another activation": (lambda: qwen2(hidden_act="gelu"), "its activation is gelu"),
    "quantized": (quantized, "its weights are quantized"),
}  # fmt: skip


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

    def test_have_nothing_allocated_for_a_path_that_they_do_not_get(self, unsupported, tokenizer, monkeypatch):
        """Gigabytes were zeroed, to be dropped at once."""
        monkeypatch.setattr(static_path, "StaticKVCache", None)
        assert Engine(unsupported[0], tokenizer, CPU).path.name == "dynamic"

    def test_are_refused_where_static_is_insisted_on(self, unsupported, tokenizer: Tokenizer):
        model, why = unsupported
        with pytest.raises(ConfigError, match=rf"{why}.*\. Set path to auto"):
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
            engine = Engine(make(), tokenizer, CPU, EngineOptions(path="dynamic"))
            clock = ForwardClock(engine, monkeypatch)
            answer(engine, asked)
            drafts[name] = len(clock.drafts)
        assert drafts["llama"] > 0
        assert drafts["sliding"] == 0


def read_by_name(module: ModuleType) -> set[str]:
    """Fields that code reads whether a configuration declares them or not."""
    return set(re.findall(r'(?:get|has)attr\(\s*(?:self\.)?(?:\w+_)?config,\s*"(\w+)"', inspect.getsource(module)))


CHECKED = {"attention_chunk_size", "is_causal", "kv_sharing_modes", "use_bidirectional_attention"}
"""In `architecture._check_attention`."""
OF_NO_ACCOUNT = {"number_of_conv_states", "original_max_position_embeddings"}
"""Of layers with a state, which are refused; of longrope, whose parameters say the same."""


def test_no_field_is_read_of_which_nothing_is_known():
    """Of transformers, by what all models share and by the classes that the fast path knows."""
    classes = [getattr(transformers, name) for name in architecture.FAMILIES]
    modules = [cache_utils, masking_utils, modeling_rope_utils, *(sys.modules[cls.__module__] for cls in classes)]
    read = set().union(*map(read_by_name, modules))
    assert {"sliding_window", "is_causal"} < read, "transformers reads its configurations in another way"
    assert read <= architecture._FIELDS | CHECKED | OF_NO_ACCOUNT


class TestWhatIsKnown:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_gets_the_static_path(self, family, tokenizer: Tokenizer):
        engine = Engine(family_model(family), tokenizer, CPU)
        assert (engine.path.name, engine.why) == ("static", "")

    def test_every_family_has_a_toy(self):
        assert {type(family_model(name)).__name__ for name in FAMILIES} == set(architecture.FAMILIES)

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
        ("family", "fields", "limit"),
        [
            ("mistral", {"sliding_window": 32}, 32),
            ("phi 4 mini, within its original length", {"original_max_position_embeddings": 32}, 32),
        ],
    )
    def test_depends_on_the_context(self, family, fields, limit, tokenizer: Tokenizer):
        """What a shorter context has no use for stands in nobody's way; the reason says which."""
        paths = {}
        for context in (limit, limit + 1):
            options = EngineOptions(context_length=context)
            engine = Engine(family_model(family, **fields), tokenizer, CPU, options)
            paths[context] = engine.path.name, f"context_length of {limit} or less" in engine.why
        assert paths == {limit: ("static", False), limit + 1: ("dynamic", True)}

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"is_causal": False}, "the tokens to come"),
            ({"attention_chunk_size": 8}, "attention_chunk_size"),
            ({"layer_types": ["sliding_attention"] * 2}, "sliding-window"),
            ({"sliding_window": 8}, "sees the last 8 tokens alone"),
            ({"layer_types": ["full_attention"] * 2, "sliding_window": 8}, "sees the last 8 tokens alone"),
        ],
    )
    def test_is_not_what_shared_code_computes_otherwise(self, fields, why, tokenizer: Tokenizer):
        with pytest.raises(ConfigError, match=why):
            Engine(told(llama(), **fields), tokenizer, CPU, EngineOptions(path="static"))

    def test_is_no_configuration_that_declares_more(self, tokenizer: Tokenizer, monkeypatch):
        """A newer transformers may give a known class a field that changes what it computes."""
        monkeypatch.setattr(architecture, "_FIELDS", architecture._FIELDS - {"mlp_bias"})
        with pytest.raises(ConfigError, match="its configuration has mlp_bias, which is newer"):
            Engine(llama(), tokenizer, CPU, EngineOptions(path="static"))
