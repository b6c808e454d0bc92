"""What the keys and values of a sequence take, by the configuration, before any memory is asked for."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)

from .context import MOST
from .model_config import text_config

_WINDOWS = (DynamicSlidingWindowLayer, LinearAttentionAndSlidingWindowAttentionLayer)
"""Not others that are made from them, which keep more than a window."""


@dataclass(frozen=True, slots=True)
class KVCost:
    """Bytes."""

    per_token: int
    """Of what keeps every token; 0 for a model whose state does not grow with the sequence."""
    in_windows: Mapping[int, int]
    """Of one token in the layers that keep the last tokens only, by how many those are."""

    def of(self, tokens: int) -> int:
        """Of a sequence of so many tokens."""
        windows = sum(of_one * min(window, tokens) for window, of_one in self.in_windows.items())
        return self.per_token * tokens + windows

    def tokens_in(self, free_bytes: int) -> int:
        """How many tokens there is room for; never more than can be asked for."""
        return max(bisect_right(range(MOST + 1), free_bytes, key=self.of) - 1, 0)


def kv_cost(config: PreTrainedConfig, dtype: torch.dtype) -> KVCost:
    """Of the growing cache, which the static one is as large as.  Raises ConfigError as `text_config` does.

    Layer by layer, as transformers' cache would hold them: all tokens, a window of them, or none (a recurrent
    state, or the keys of another layer). The state itself, some megabytes, counts as working memory.
    """
    text = text_config(config)
    per_token = 0
    in_windows: dict[int, int] = defaultdict(int)
    for layer, layer_config in zip(_layers(config), text.per_layer_config, strict=False):
        if not isinstance(layer, DynamicLayer):
            continue
        numbers = _numbers_per_token(layer_config)
        if isinstance(layer, DynamicSlidingWindowLayer) and type(layer) in _WINDOWS:
            in_windows[layer.sliding_window] += numbers * dtype.itemsize
        else:
            indexed = layer_config.index_head_dim if isinstance(layer, DynamicIndexedLayer) else 0
            per_token += (numbers + indexed) * dtype.itemsize
    return KVCost(per_token, dict(in_windows))


def _layers(config: PreTrainedConfig) -> list[object]:
    try:
        return list(DynamicCache(config=config).layers)
    except (
        AttributeError,
        KeyError,
        ValueError,
    ):  # kinds that only the model's own code brings: full ones are larger
        return [DynamicLayer() for _ in range(_first(text_config(config), "num_hidden_layers") or 0)]


def _numbers_per_token(layer: PreTrainedConfig) -> int:
    """Of the keys and values of one layer; 0 for a layer without attention heads, which has a state instead."""
    heads = _first(layer, "num_attention_heads")
    if heads is None:
        return 0
    if latent := _first(
        layer, "kv_lora_rank"
    ):  # of DeepSeek's attention, what keys and values are made from is kept
        return latent + (_first(layer, "qk_rope_head_dim") or 0)
    head_dim = _first(layer, "head_dim", "attention_head_dim") or (_first(layer, "hidden_size") or 0) // heads
    kv_heads = 1 if getattr(layer, "multi_query", False) else _first(layer, "num_key_value_heads", "num_kv_heads")
    return (kv_heads or heads) * 2 * head_dim


def _first(config: PreTrainedConfig, *names: str) -> int | None:
    """The first of these that is a number; what differs by layer is read from a layer's own configuration."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value), None)
