"""What a sequence takes, against the caches of models that have read one."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedConfig, Qwen2Config

from tests.models import CPU, HEADS, random_model
from worker.engine.forward.kv_cache import StaticKVCache
from worker.engine.loading.context import MOST
from worker.engine.loading.kv_cost import KVCost, kv_cost

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4}

MODELS = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
    "bloom": {"n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4},
    "falcon": {"multi_query": True},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 3, "n_head": 4, "multi_query": True},
    "gpt_neox": {},
    "phi": {},
    "llama": {"num_key_value_heads": 2, "head_dim": 20},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, **WINDOWS},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16, **WINDOWS},
    "gpt_oss": {"num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1,
                **WINDOWS},
    "deepseek_v3": {"num_key_value_heads": 4, **LATENT, **EXPERTS},
    "minicpm3": {"num_key_value_heads": 4, **LATENT},
    "mamba": {"state_size": 8},
    "recurrent_gemma": {"num_key_value_heads": 1, "attention_window_size": 4, "lru_width": 32},
    "qwen3_next": {
        "num_key_value_heads": 2, "head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    },
}  # fmt: skip


def read(config: PreTrainedConfig, tokens: int) -> int:
    """Bytes of keys and values that a model of that configuration keeps of so many tokens, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        for token_id in range(tokens):
            model(torch.tensor([[token_id + 3]]), past_key_values=cache, use_cache=True)
    tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


@pytest.mark.parametrize("kind", MODELS)
def test_is_what_the_model_keeps(kind: str) -> None:
    """A window keeps one token less than it sees: the next one comes anyway."""
    config = AutoConfig.for_model(kind, **{**SMALL, **MODELS[kind]})
    cost = kv_cost(config, torch.float32)
    in_one_window = sum(cost.in_windows.values())
    for tokens in (3, 6):
        kept = read(config, tokens)
        assert kept in (cost.of(tokens), cost.of(tokens) - in_one_window)


@pytest.mark.parametrize("heads", HEADS)
def test_is_what_the_static_cache_takes(heads: str) -> None:
    config = random_model(heads).config
    shape = (config.num_hidden_layers, config.num_key_value_heads, 8, 16)
    for dtype in (torch.float32, torch.bfloat16):
        assert kv_cost(config, dtype) == KVCost(StaticKVCache(shape, dtype, CPU).bytes_per_token, {})


@pytest.mark.parametrize("kind", ["mamba", "rwkv", "xlstm"])
def test_of_a_state_does_not_grow_with_the_sequence(kind: str) -> None:
    assert kv_cost(AutoConfig.for_model(kind), torch.float32) == KVCost(0, {})


def test_of_qwen2_7b() -> None:
    config = Qwen2Config(hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4)
    assert kv_cost(config, torch.bfloat16) == KVCost(57_344, {})


def test_of_a_model_that_sees_is_that_of_its_text() -> None:
    text = {**SMALL, "num_key_value_heads": 2, "head_dim": 16, "layer_types": ["full_attention"] * 4}
    assert kv_cost(AutoConfig.for_model("gemma3", text_config=text), torch.float32).per_token == 4 * 2 * 2 * 16 * 4


@pytest.mark.parametrize(
    ("cost", "free", "tokens"),
    [
        (KVCost(10, {}), 99, 9),
        (KVCost(10, {}), -1, 0),
        (KVCost(0, {}), 0, MOST),
        (KVCost(0, {}), -1, 0),
        (KVCost(10, {4: 100}), 109, 0),
        (KVCost(10, {4: 100}), 330, 3),
        (KVCost(10, {4: 100}), 499, 9),
        (KVCost(0, {4: 100}), 400, MOST),
    ],
)
def test_tokens_in_some_memory(cost: KVCost, free: int, tokens: int) -> None:
    assert cost.tokens_in(free) == tokens
