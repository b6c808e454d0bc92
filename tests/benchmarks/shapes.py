"""The shapes that are measured: Qwen2's configurations, with random weights made on the device. No download."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from worker.engine.forward.matrices import Int4Matrix, Int8Matrix, SmallMatrix
from worker.engine.forward.small_modules import SmallEmbedding, SmallLinear

MAX_POSITIONS = 8192


def _qwen2(**fields: Any) -> Qwen2Config:
    ends = {"bos_token_id": None, "eos_token_id": None}  # no random answer is to end early
    return Qwen2Config(max_position_embeddings=MAX_POSITIONS, **ends, **fields)


SHAPES = {
    "tiny": _qwen2(
        vocab_size=768,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-0.5b": _qwen2(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-7b": _qwen2(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}


def build(
    shape: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tied: bool | None = None,
    positions: int = MAX_POSITIONS,
) -> Qwen2ForCausalLM:
    """A model of that shape with random weights, for a context of so many positions.

    `tied`: whether input and output share an embedding, if not as in the shape; a step reads as much either way.
    """
    config = copy.deepcopy(SHAPES[shape])
    config.max_position_embeddings = positions
    if tied is not None:
        config.tie_word_embeddings = tied
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)


BITS = {"int8": 8, "int4": 4 + 24 / 32}
"""Of a weight; int4 in groups of 32, each with a scale of 16 bits and a zero of 8."""


def build_small(
    config: Qwen2Config, device: torch.device, dtype: torch.dtype, weights: str, group: int = 32
) -> Qwen2ForCausalLM:
    """A model of that configuration whose weights are small from the start, and random: no larger form is made.

    dtype: of rows, keys and values.
    """
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config).to(dtype).eval()
    made: dict[int, SmallMatrix] = {}  # embedding and head may be one
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if not isinstance(module, nn.Linear | nn.Embedding):
                continue
            as_int8 = weights == "int8" or module in (model.model.embed_tokens, model.lm_head)
            matrix = made.setdefault(
                id(module.weight), _random(tuple(module.weight.shape), device, as_int8, group)
            )
            if isinstance(module, nn.Embedding):
                setattr(parent, name, SmallEmbedding(matrix, dtype))
                continue
            bias = (
                None
                if module.bias is None
                else nn.Parameter(torch.zeros(len(module.bias), dtype=dtype, device=device))
            )
            setattr(parent, name, SmallLinear(matrix, bias, dtype))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                setattr(module, name, nn.Parameter(torch.ones(parameter.shape, dtype=dtype, device=device)))
    model.model.rotary_emb = Qwen2RotaryEmbedding(config).to(device)
    return model


def _random(shape: tuple[int, int], device: torch.device, as_int8: bool, group: int) -> SmallMatrix:
    """With the deviation of a Qwen2 that is initialised, 0.02."""
    outputs, inputs = shape
    if as_int8:
        values = torch.randint(-127, 128, shape, dtype=torch.int8, device=device)
        return Int8Matrix(values, torch.full((outputs,), 0.02 / 73.6, device=device))
    groups = inputs // group
    packed = torch.randint(0, 256, (outputs, groups, group // 2), dtype=torch.uint8, device=device)
    scales = torch.full((outputs, groups), 0.02 / 4.6, dtype=torch.bfloat16, device=device)
    return Int4Matrix(packed, scales, torch.full((outputs, groups), 8, dtype=torch.uint8, device=device))


def bytes_per_token(config: Qwen2Config, dtype: torch.dtype, context: int, weights: str | None = None) -> int:
    """What a decode step has to read: every weight but the input embedding, and the keys and values so far.

    weights: int8 or int4 where they are not of `dtype`.
    """
    head_dim = config.hidden_size // config.num_attention_heads
    kv_width = config.num_key_value_heads * head_dim
    layer = config.hidden_size * (2 * config.hidden_size + 2 * kv_width + 3 * config.intermediate_size)
    layers, head = config.num_hidden_layers * layer, config.vocab_size * config.hidden_size
    cache = dtype.itemsize * 2 * config.num_hidden_layers * kv_width * context
    if weights is None:
        return dtype.itemsize * (layers + head) + cache
    return int(layers * BITS[weights] / 8 + head) + cache
