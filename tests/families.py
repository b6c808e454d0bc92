"""Toy models of every family that the fast path knows, with random weights: the fields of a few lines each.

A family stands here once for each of its ways to compute. Norms and biases are random too: those that transformers
starts with, ones and zeros, would hide one that is left out.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from .models import VOCAB_SIZE

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN_ROPE = {
    "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 10_000.0, "long_factor": [8.0] * 4, "short_factor": [1.5] * 4}

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2"},
    "qwen2, yarn": {"model_type": "qwen2", "rope_parameters": YARN_ROPE},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "llama 2": {"model_type": "llama", "num_key_value_heads": 4},
    "llama 3": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True},
    "llama with biases": {
        "model_type": "llama", "attention_bias": True, "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 2, "num_hidden_layers": 4},
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 32},
    "mistral, a window that holds the context": {"model_type": "mistral", "sliding_window": 128},
    "phi 3": {"model_type": "phi3"},
    "phi 4 mini, within its original length": {
        "model_type": "phi3", "original_max_position_embeddings": 128, "rope_parameters": LONG_ROPE,
        "partial_rotary_factor": 0.5,
    },
    "llama, dynamic rope": {
        "model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    },
    "olmo2": {"model_type": "olmo2"},
    "granite": {
        "model_type": "granite", "embedding_multiplier": 3.0, "attention_multiplier": 0.2,
        "residual_multiplier": 0.5, "logits_scaling": 0.25,
    },
    "gemma": {"model_type": "gemma", "head_dim": 32, "num_key_value_heads": 1},
}  # fmt: skip
"""What differs from `toy_model`'s fields."""


def family_model(name: str, **changes: Any) -> PreTrainedModel:
    """A float32 model of that family."""
    return toy_model(**FAMILIES[name] | changes)


def toy_model(*, model_type: str, seed: int = 0, scale: float = 1.0, **fields: Any) -> PreTrainedModel:
    """Of any architecture: random weights, so large that no argmax hangs on rounding.

    `scale`: of the matrices, for those that are not made by the configuration's initializer_range.
    """
    config = AutoConfig.for_model(
        **{
            "model_type": model_type, "vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "initializer_range": 0.2, "bos_token_id": None,
            "eos_token_id": VOCAB_SIZE, "pad_token_id": None, "tie_word_embeddings": False,
        } | fields
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
                else:
                    parameter.mul_(scale)
    return model
