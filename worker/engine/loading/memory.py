"""How long a sequence the device has memory for: decided once, at the start, so that no job runs out half-way."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from ...engine_options import MIN_CONTEXT
from ...errors import ConfigError
from .context import ModelContext, model_context
from .host_memory import available_bytes
from .kv_cost import KVCost, kv_cost

_ALIGNED = 256
"""Tokens. The last range of lengths ends with the cache, and some kernels take aligned lengths only."""
KEPT_FREE_BYTES = {"cuda": 2**31, "cpu": 2**28}
"""For what a forward pass holds in between, libraries' workspaces and graphs."""
_USUAL_SHARE = {"cuda": 1.0, "cpu": 0.5}
"""Of what is free, for the context that nobody has set: on a CPU, the memory is others', too."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What was decided."""

    context_length: int
    """Tokens of prompt and answer together."""
    kv_bytes: int
    headroom_bytes: int
    """What stays free on the device beside the cache."""


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens that some free memory is enough for."""

    most: int
    usual: int
    """Without the memory that is left to others."""


def plan_memory(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    wanted: int | None,
    *,
    taken_bytes: int = 0,
) -> MemoryPlan:
    """The context that fits, for weights that are on the device already.

    `wanted`: the setting.  `taken_bytes`: of what counts as free, what the weights need all the same.
    Raises ConfigError when that, or any context of use, does not fit.
    """
    context = model_context(config)
    if wanted is not None:
        check_wanted(wanted, context)
    cost = kv_cost(config, dtype)
    free = max(free_bytes(device) - taken_bytes, 0)
    room = room_in(free, cost, device)
    if room.most < min(MIN_CONTEXT, context.most):
        raise ConfigError(
            f"{device} has {free / 2**30:.1f} GiB free beside the weights, too little to generate at all: "
            "free memory there, or use a smaller model, dtype or form of weights (engine.weights)"
        )
    if wanted is not None:
        check_room(wanted, room, free, device)
    tokens = wanted or min(context.usual, room.usual)
    return MemoryPlan(tokens, cost.of(tokens), free - cost.of(tokens))


def check_wanted(wanted: int, context: ModelContext) -> None:
    """Raises ConfigError for a context_length that the model does not take."""
    if not MIN_CONTEXT <= wanted <= context.most:
        raise ConfigError(
            f"context_length {wanted} cannot be: this model takes {MIN_CONTEXT} to {context.most} tokens"
        )


def check_room(wanted: int, room: Room, free: int, device: torch.device) -> None:
    """Raises ConfigError for a context_length that there is no memory for.  free: bytes beside the weights."""
    if wanted > room.most:
        raise ConfigError(
            f"context_length {wanted} does not fit: {device} has {free / 2**30:.1f} GiB free beside the weights, "
            f"which is room for {room.most} tokens of keys and values. Set context_length to {room.most} or less, "
            "or free memory there"
        )


def room_in(free: int, cost: KVCost, device: torch.device) -> Room:
    """free: bytes on the device, beside the weights."""
    free -= KEPT_FREE_BYTES[device.type]
    most = cost.tokens_in(free)
    usual = rounded(cost.tokens_in(int(free * _USUAL_SHARE[device.type])))
    return Room(most, max(usual, min(most, MIN_CONTEXT)))


def rounded(tokens: int) -> int:
    """Down to a number with which what was compiled at another start can be used again.

    Its shapes hold the context, but for a step of our kernels, and free memory differs by some MB from one start
    to the next. It costs a thirty-second at most.
    """
    step = max(_ALIGNED, 1 << max(tokens.bit_length() - 6, 0))
    return tokens - tokens % step if tokens >= _ALIGNED else tokens


def free_bytes(device: torch.device) -> int:
    """What can still be allocated on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()
