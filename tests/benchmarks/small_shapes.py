"""The shapes that are measured with small weights, random ones, made on the device in no time."""

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from worker.engine.forward.matrices import Int4Matrix, Int8Matrix, SmallMatrix
from worker.engine.forward.small_modules import SmallEmbedding, SmallLinear


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
                id(module.weight),
                random_matrix(tuple(module.weight.shape), device, "int8" if as_int8 else weights, group),
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


def random_matrix(shape: tuple[int, int], device: torch.device, form: str, group: int = 32) -> SmallMatrix:
    """With the deviation of a Qwen2 that is initialised, 0.02.  form: int8 or int4."""
    outputs, inputs = shape
    if form == "int8":
        values = torch.randint(-127, 128, shape, dtype=torch.int8, device=device)
        return Int8Matrix(values, torch.full((outputs,), 0.02 / 73.6, device=device))
    groups = inputs // group
    packed = torch.randint(0, 256, (outputs, groups, group // 2), dtype=torch.uint8, device=device)
    scales = torch.full((outputs, groups), 0.02 / 4.6, dtype=torch.bfloat16, device=device)
    return Int4Matrix(packed, scales, torch.full((outputs, groups), 8, dtype=torch.uint8, device=device))
