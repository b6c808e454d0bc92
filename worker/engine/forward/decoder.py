"""Qwen2's forward pass, written out: everything that a decode step costs is in this file.

At batch 1, a token costs one read of the weights. transformers' modules add a third of a millisecond of Python a
layer, and on a CPU a matrix-vector product that runs on one core. Here are the same operations on the same
weights: plain functions on tensors, one for many rows (prefill) and one for a decode step, which torch.compile and
a CUDA graph can take as they are.

Knows weights and shapes. Knows nothing of sampling, jobs, or when to compile.
Source: transformers, models/qwen2/modeling_qwen2.py; gpt-fast, model.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from transformers import PreTrainedConfig, PreTrainedModel, Qwen2ForCausalLM

from ..errors import NotSupported
from .kv_cache import StaticKVCache

Linear = Callable[[Tensor, Tensor], Tensor]
"""(rows, in), (out, in) -> (rows, out)"""

_KNOWN_ROPE = {"default", "linear", "llama3", "yarn"}  # the others change with the length of the sequence


class Shape(NamedTuple):
    """What the weights do not say by themselves."""

    query_heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float


class Weights(NamedTuple):
    """Of one layer.  Matrices are (out, in)."""

    input_norm: Tensor
    qkv: Tensor  # ((query_heads + 2 * kv_heads) * head_dim, hidden)
    qkv_bias: Tensor
    output: Tensor  # (hidden, query_heads * head_dim)
    mlp_norm: Tensor
    gate_up: Tensor  # (2 * intermediate, hidden)
    down: Tensor  # (hidden, intermediate)


class Layer(NamedTuple):
    """One layer, and its part of the cache."""

    shape: Shape
    weights: Weights
    keys: Tensor  # (kv_heads, capacity, head_dim)
    values: Tensor  # (kv_heads, capacity, head_dim)


class Rotation(NamedTuple):
    """Of some positions, for rotary embedding: (rows, 1, head_dim) each.  `sin` has its first half negated."""

    cos: Tensor
    sin: Tensor


class View(NamedTuple):
    """What the rows of a step see: each its first `used` tokens. They are among the first `visible`."""

    used: Tensor  # (rows,) int32
    visible: int
    mask: Tensor | None  # (visible,) float32, for a single row: -inf behind those used, where some are


Attend = Callable[[Tensor, Tensor, Tensor, View, float], Tensor]
"""(rows, query_heads, head_dim), keys, values, view, scale -> (rows, query_heads * head_dim)"""


class Operations(NamedTuple):
    """What takes the time of a step, and is done in other ways on other devices."""

    linear: Linear
    attend: Attend


class Qwen2:
    """The weights of a model, and how they are applied to rows of token ids."""

    def __init__(self, model: PreTrainedModel, cache: StaticKVCache) -> None:
        """Joins the matrices that are read together; the model's own parameters become views of the joined ones.

        Raises NotSupported for a model that is no plain Qwen2.
        """
        check_supported(model)
        decoder = cast("Any", model).model  # torch annotates every attribute of a module as Tensor | Module
        self.shape = shape_of(model.config)
        self.layers: list[Layer] = []
        for layer, keys, values in zip(decoder.layers, cache.keys, cache.values, strict=True):
            self.layers.append(Layer(self.shape, _weights(layer), keys, values))
            torch.cuda.empty_cache()  # pieces that were joined fit nothing else; without a GPU this does nothing
        self.embedding: Tensor = decoder.embed_tokens.weight.detach()
        self.norm: Tensor = decoder.norm.weight.detach()
        self.head: Tensor = cast("Any", model).lm_head.weight.detach()
        self._rotations = _rotations(decoder.rotary_emb, cache.capacity, self.embedding)

    def rotation(self, positions: Tensor) -> Rotation:
        """positions: (rows,) int64 on the device."""
        return Rotation(self._rotations.cos[positions], self._rotations.sin[positions])

    def read(self, ids: Tensor, start: int, rows: int) -> Tensor:
        """Read tokens that follow on `start` others, for which the cache has room.  ids: (seq_len,) int64.

        Returns the logits after the last `rows` of them, (rows, vocab) float32.
        """
        hidden = functional.embedding(ids, self.embedding)
        rotation = self.rotation(torch.arange(start, start + len(ids), device=ids.device))
        for layer in self.layers:
            hidden = rows_through_layer(hidden, layer, rotation, start)
        return head(hidden[len(ids) - rows :], self.norm, self.head, self.shape, linear=functional.linear)


def rows_through_layer(hidden: Tensor, layer: Layer, rotation: Rotation, start: int) -> Tensor:
    """Many rows at once, at the positions from `start` on.  hidden: (rows, hidden)."""
    end = start + len(hidden)
    query, key, value = _query_key_value(hidden, layer, rotation, functional.linear)
    layer.keys[:, start:end] = key.transpose(0, 1)
    layer.values[:, start:end] = value.transpose(0, 1)
    keys, values = layer.keys[None, :, :end], layer.values[None, :, :end]
    if hidden.is_cuda and hidden.dtype == torch.float32:  # no fused kernel there shares keys among query heads
        group = layer.shape.query_heads // layer.shape.kv_heads
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    attended = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys,
        values,
        attn_mask=causal_lower_right(len(hidden), end),
        enable_gqa=keys.shape[1] != query.shape[1],
    )
    hidden = hidden + functional.linear(attended[0].transpose(0, 1).flatten(1), layer.weights.output)
    return hidden + _mlp(hidden, layer, functional.linear)


def step_through_layer(
    hidden: Tensor, layer: Layer, rotation: Rotation, positions: Tensor, view: View, *, operations: Operations
) -> Tensor:
    """A decode step: one row, or a few where `attend` takes them, with static shapes throughout.

    hidden: (rows, hidden).  positions: (rows,) int64 on the device, where keys and values are written.
    """
    linear = operations.linear
    query, key, value = _query_key_value(hidden, layer, rotation, linear)
    layer.keys.index_copy_(1, positions, key.transpose(0, 1))
    layer.values.index_copy_(1, positions, value.transpose(0, 1))
    attended = operations.attend(query, layer.keys, layer.values, view, layer.shape.head_dim**-0.5)
    hidden = hidden + linear(attended, layer.weights.output)
    return hidden + _mlp(hidden, layer, linear)


def head(hidden: Tensor, norm: Tensor, weight: Tensor, shape: Shape, *, linear: Linear) -> Tensor:
    """From (rows, hidden) to logits, (rows, vocab) float32."""
    return linear(_rms_norm(hidden, norm, shape), weight).float()


def shape_of(config: PreTrainedConfig) -> Shape:
    """From a model's configuration."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(config.num_attention_heads, config.num_key_value_heads, head_dim, config.rms_norm_eps)


def check_supported(model: PreTrainedModel) -> None:
    """Raises NotSupported with the reason why the functions here would not compute what the model computes."""
    config = model.config
    if not isinstance(model, Qwen2ForCausalLM):
        raise NotSupported(f"{type(model).__name__} is not Qwen2ForCausalLM")
    if getattr(config, "quantization_config", None) is not None:
        raise NotSupported("its weights are quantized")
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise NotSupported("the model has sliding-window attention")
    if config.hidden_act != "silu":
        raise NotSupported(f"its activation is {config.hidden_act} and not silu")
    if (kind := (config.rope_parameters or {}).get("rope_type", "default")) not in _KNOWN_ROPE:
        raise NotSupported(f"its rotary embedding is of type {kind}")


def _query_key_value(
    hidden: Tensor, layer: Layer, rotation: Rotation, linear: Linear
) -> tuple[Tensor, Tensor, Tensor]:
    """Each (rows, heads, head_dim); query and key are rotated."""
    shape, weights = layer.shape, layer.weights
    qkv = linear(_rms_norm(hidden, weights.input_norm, shape), weights.qkv) + weights.qkv_bias
    heads = qkv.view(len(hidden), -1, shape.head_dim)
    turned, value = heads[:, : -shape.kv_heads], heads[:, -shape.kv_heads :]
    # x * cos + rotate_half(x) * sin: a roll by half, as the minus of rotate_half is in the sine.
    turned = turned * rotation.cos + turned.roll(shape.head_dim // 2, -1) * rotation.sin
    return turned[:, : shape.query_heads], turned[:, shape.query_heads :], value


def attend(query: Tensor, keys: Tensor, values: Tensor, view: View, scale: float) -> Tensor:
    """See `Attend`; for a single row, in torch's own operations.  keys, values: (kv_heads, capacity, head_dim)."""
    # The query heads that share a key-value head are the rows of one product: nothing is repeated in memory.
    rows = query.view(len(keys), -1, query.shape[-1])
    keys, values = keys[:, : view.visible], values[:, : view.visible]
    if view.mask is None:
        attended = functional.scaled_dot_product_attention(rows[None], keys[None], values[None], scale=scale)
    else:
        scores = _in_float32(rows, keys.transpose(1, 2)) * scale + view.mask
        attended = torch.bmm(scores.softmax(-1).to(query.dtype), values)
    return attended.reshape(1, -1)


def _in_float32(some: Tensor, others: Tensor) -> Tensor:
    """Batched product, (b, n, k) and (b, k, m) -> (b, n, m) float32.

    Scores of Qwen2 reach thousands, where bfloat16 counts in steps of 16 and float16 overflows: rounding them to
    either costs quality that can be measured. Source: transformers, pull request 33317.
    """
    if some.is_cuda:
        return torch.bmm(some, others, out_dtype=torch.float32)
    return torch.bmm(some.float(), others.float())


def _mlp(hidden: Tensor, layer: Layer, linear: Linear) -> Tensor:
    weights = layer.weights
    gate, up = linear(_rms_norm(hidden, weights.mlp_norm, layer.shape), weights.gate_up).chunk(2, -1)
    return linear(functional.silu(gate) * up, weights.down)


def _rms_norm(hidden: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    return functional.rms_norm(hidden, weight.shape, weight, shape.norm_epsilon)


def _weights(layer: Any) -> Weights:
    attention, mlp = layer.self_attn, layer.mlp
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    return Weights(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=_join([projection.weight for projection in projections]),
        qkv_bias=_join([projection.bias for projection in projections]),
        output=attention.o_proj.weight.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=_join([mlp.gate_proj.weight, mlp.up_proj.weight]),
        down=mlp.down_proj.weight.detach(),
    )


def _join(parameters: list[nn.Parameter]) -> Tensor:
    """One matrix of several, whose parameters become its views: nothing is held twice."""
    joined = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, view in zip(
        parameters, joined.split([len(parameter) for parameter in parameters]), strict=True
    ):
        parameter.data = view
    return joined


def _rotations(rotary: nn.Module, positions: int, like: Tensor) -> Rotation:
    """Of every position, as the model's own module gives them, scaling included."""
    cos, sin = rotary(like[:1], torch.arange(positions, device=like.device)[None])
    half = sin.shape[-1] // 2
    return Rotation(cos[0][:, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)[:, None])
