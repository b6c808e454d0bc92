"""How long a sequence the device has memory for: decided once, at the start, so that no job runs out half-way."""

from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedConfig

from ...engine_options import MIN_CONTEXT
from ...errors import ConfigError

_ALIGNED = 256
"""Tokens. The last range of lengths ends with the cache, and some kernels take aligned lengths only."""
KEPT_FREE_BYTES = {"cuda": 2**31, "cpu": 2**28}
"""For what a forward pass holds in between, libraries' workspaces and graphs."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What was decided."""

    context_length: int
    """Tokens of prompt and answer together."""
    kv_bytes: int
    headroom_bytes: int
    """What stays free on the device beside the cache."""


def plan_memory(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, wanted: int | None
) -> MemoryPlan:
    """The context that fits, for weights that are on the device already.

    `wanted`: the setting.  Raises ConfigError when that, or any context of use, does not fit.
    """
    model_context: int = config.max_position_embeddings
    if wanted is not None and not MIN_CONTEXT <= wanted <= model_context:
        raise ConfigError(
            f"context_length {wanted} cannot be: this model takes {MIN_CONTEXT} to {model_context} tokens"
        )
    per_token = kv_bytes_per_token(config, dtype)
    free = free_bytes(device)
    fits = max(free - KEPT_FREE_BYTES[device.type], 0) // per_token
    context = wanted or min(model_context, rounded(fits))
    if fits < min(MIN_CONTEXT, model_context):
        raise ConfigError(
            f"{device} has {free / 2**30:.1f} GiB free beside the weights, too little to generate at all: "
            "free memory there, or use a smaller model or dtype"
        )
    if context > fits:
        raise ConfigError(
            f"context_length {wanted} does not fit: {device} has {free / 2**30:.1f} GiB free beside the weights, "
            f"which is room for {fits} tokens of keys and values. Set context_length to {fits} or less, or free "
            "memory there"
        )
    return MemoryPlan(context, context * per_token, free - context * per_token)


def rounded(tokens: int) -> int:
    """Down to a number with which kernels that were compiled at another start can be used again.

    Their shapes hold the context, and free memory differs by some MB from one start to the next. It costs a
    thirty-second at most.
    """
    step = max(_ALIGNED, 1 << max(tokens.bit_length() - 6, 0))
    return tokens - tokens % step if tokens >= _ALIGNED else tokens


def kv_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * kv_heads * head_dim * dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """What can still be allocated on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
