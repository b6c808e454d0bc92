"""The architectures that people use, as toy models: which path each gets, and whether it answers as generate does.

    python -m tests.architectures

prints the table of worker/engine/README.md. A toy is of random weights in float32, read in pieces of seven tokens.
"""

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from producer.contract import GenerationRequest
from worker.engine import Engine, EngineOptions
from worker.errors import ConfigError

from .families import FAMILIES, toy_model
from .models import CPU, save_tokenizer

NEW_TOKENS = 24
PROMPTS = ((5,), tuple(range(7, 40)))
"""One token; and more than a window, a piece, and what a convolution looks back to."""

_SMALL_HEADS = {"head_dim": 16}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
_LINEAR = {
    "num_hidden_layers": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "head_dim": 16,
}  # fmt: skip
_LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "long_factor": [8.0] * 8, "short_factor": [1.0] * 8,
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{
        name: FAMILIES[toy]
        for name, toy in {
            "Qwen2, Qwen2.5": "qwen2", "Qwen3": "qwen3", "Llama 2, SmolLM2, Yi, Vicuna": "llama 2",
            "Llama 3.1, 3.2, 3.3": "llama 3", "SmolLM3": "smollm3", "Mistral v0.2 and later": "mistral",
            "Phi-4": "phi 3", "OLMo2": "olmo2", "Granite 3": "granite", "Gemma": "gemma",
        }.items()
    },
    "Mistral v0.1": {"model_type": "mistral", "sliding_window": 8},
    "Phi-3 mini 4k": {"model_type": "phi3", "sliding_window": 8},
    "Phi-3 128k, Phi-4-mini": {
        "model_type": "phi3", "original_max_position_embeddings": 16, "rope_parameters": _LONG_ROPE,
    },
    "Phi, Phi-2": {"model_type": "phi", "partial_rotary_factor": 0.5, "seed": 1},
    "Gemma 2": {"model_type": "gemma2", **_SMALL_HEADS, "sliding_window": 8},
    "Gemma 3": {"model_type": "gemma3_text", **_SMALL_HEADS, "sliding_window": 8, "num_hidden_layers": 6},
    "OLMo": {"model_type": "olmo"},
    "OLMo3": {"model_type": "olmo3", "sliding_window": 8, "num_hidden_layers": 4},
    "GPT-2": {"model_type": "gpt2"},
    "GPT-J": {"model_type": "gptj", "rotary_dim": 8},
    "GPT-NeoX, Pythia": {"model_type": "gpt_neox"},
    "OPT": {"model_type": "opt", "ffn_dim": 128, "word_embed_proj_dim": 64},
    "BLOOM": {"model_type": "bloom"},
    "MPT": {"model_type": "mpt", "max_seq_len": 128},
    "Falcon": {
        "model_type": "falcon", "num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False
    },
    "StableLM": {"model_type": "stablelm", "partial_rotary_factor": 0.25},
    "StarCoder": {"model_type": "gpt_bigcode"},
    "StarCoder2": {"model_type": "starcoder2", "sliding_window": 8},
    "Command R": {"model_type": "cohere"},
    "Command R7B": {"model_type": "cohere2", "sliding_window": 8},
    "GLM-4": {"model_type": "glm4", **_SMALL_HEADS},
    "EXAONE 4": {"model_type": "exaone4", "sliding_window": 8, "num_hidden_layers": 4},
    "Nemotron": {"model_type": "nemotron"},
    "Mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "Qwen2-MoE": {
        "model_type": "qwen2_moe", "num_experts": 4, "shared_expert_intermediate_size": 32, **_EXPERTS,
    },
    "Qwen3-MoE": {"model_type": "qwen3_moe", "num_experts": 4, **_SMALL_HEADS, **_EXPERTS},
    "gpt-oss": {
        "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
        **_SMALL_HEADS,
    },
    "DeepSeek-V2": {"model_type": "deepseek_v2", "q_lora_rank": None, **_LATENT, **_EXPERTS},
    "DeepSeek-V3, R1": {"model_type": "deepseek_v3", "q_lora_rank": 32, **_LATENT, **_EXPERTS},
    "Llama 4": {
        "model_type": "llama4_text", "num_local_experts": 4, "num_experts_per_tok": 1,
        "intermediate_size_mlp": 128, "attention_chunk_size": 16, "num_hidden_layers": 4, **_SMALL_HEADS,
    },
    "Phi-3.5-MoE": {
        "model_type": "phimoe", "num_local_experts": 4, "sliding_window": None,
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            **_LONG_ROPE, "short_mscale": 1.2, "long_mscale": 1.3, "original_max_position_embeddings": 16,
        },
    },
    "Mamba": {"model_type": "mamba", "state_size": 8},
    "Mamba-2": {
        "model_type": "mamba2", "state_size": 8, "num_heads": 8, "n_groups": 1, "expand": 2, **_SMALL_HEADS,
    },
    "Falcon-Mamba": {"model_type": "falcon_mamba", "state_size": 8},
    "Jamba": {
        "model_type": "jamba", "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
        "use_mamba_kernels": False, "num_hidden_layers": 4,
    },
    "Bamba": {"model_type": "bamba", **_MAMBA, "attn_layer_indices": [1]},
    "Zamba": {
        "model_type": "zamba", "mamba_d_state": 8, "n_mamba_heads": 2, "attention_head_dim": 32,
        "num_hidden_layers": 6, "use_mamba_kernels": False,
    },
    "Falcon-H1": {"model_type": "falcon_h1", **_MAMBA, "mamba_d_ssm": 128, **_SMALL_HEADS},
    "Nemotron-H": {
        "model_type": "nemotron_h", "hybrid_override_pattern": "M*M-", "num_hidden_layers": 4,
        "ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 1, **_SMALL_HEADS,
    },
    "Granite 4": {
        "model_type": "granitemoehybrid", **_MAMBA, "layer_types": ["mamba", "attention"],
        "num_local_experts": 0, "shared_intermediate_size": 64,
    },
    "LFM2": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
    "Qwen3-Next": {
        "model_type": "qwen3_next", "num_experts": 4, "shared_expert_intermediate_size": 32, **_LINEAR, **_EXPERTS,
    },
    "Qwen3.5": {"model_type": "qwen3_5_text", **_LINEAR},
    "RecurrentGemma": {
        "model_type": "recurrent_gemma", "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 16,
        "conv1d_width": 4, "scale": 3.0, **_SMALL_HEADS,
    },
    "MiniMax-Text-01": {
        "model_type": "minimax", "num_local_experts": 4, "layer_types": ["linear_attention", "full_attention"],
        **_SMALL_HEADS,
    },
    "RWKV": {"model_type": "rwkv", "attention_hidden_size": 64},
    "GPT": {"model_type": "openai-gpt"},
}  # fmt: skip
"""A name that people know, and the fields of `toy_model`."""


@dataclass(frozen=True)
class Outcome:
    """What became of a model."""

    path: str
    """static, dynamic or refused."""
    why: str
    """Of the path, where it is not the fast one; or of the refusal."""
    as_generate: bool | None
    """Whether every answer was that of generate."""
    resumed: bool | None
    """Whether every answer that was taken up again was that of the undisturbed run."""


def outcome_of(name: str, folder: Path) -> Outcome:
    """Serve a toy of that architecture from a folder, which holds a tokenizer, and compare."""
    model = toy_model(**ARCHITECTURES[name])
    model.save_pretrained(folder)
    try:
        engine = Engine.load(folder, CPU, "float32", EngineOptions(prefill_chunk=7))
    except ConfigError as error:
        return Outcome("refused", str(error), None, None)
    engine.warm_up()
    equal, resumed = [], []
    for prompt in PROMPTS:
        answered = _answer(engine, prompt)
        equal.append(answered == _generated(model, prompt))
        resumed += [answered[:split] + _answer(engine, prompt, answered[:split]) == answered for split in (1, 11)]
    return Outcome(engine.path.name, engine.why, all(equal), all(resumed))


def _answer(engine: Engine, prompt: tuple[int, ...], resumed: list[int] | None = None) -> list[int]:
    request = GenerationRequest(prompt_token_ids=prompt, max_new_tokens=NEW_TOKENS)
    steps = engine.start(request, engine.encode(request), seed=0, resumed_ids=resumed or ())
    return [step.token_id for step in steps]


def _generated(model: PreTrainedModel, prompt: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt])
    output: Any = model.generate(  # type: ignore[misc]
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, max_new_tokens=NEW_TOKENS
    )
    answered: list[int] = output[0, len(prompt) :].tolist()
    assert len(set(answered)) > 1, "the model repeats one token, so that the comparison says little"
    return answered


def row(name: str, outcome: Outcome) -> str:
    """Of the table."""
    said = {True: "yes", False: "no", None: ""}
    return f"| {name} | {outcome.path} | {said[outcome.as_generate]} | {said[outcome.resumed]} | {outcome.why} |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        print("| model | path | as `generate` | resumed | why |\n|---|---|---|---|---|")
        for name in ARCHITECTURES:
            print(row(name, outcome_of(name, Path(folder))), flush=True)


if __name__ == "__main__":
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    logging.disable(logging.WARNING)
    main()
