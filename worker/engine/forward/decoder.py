"""The forward pass of Llama and its kin, written out: all that a decode step does is in this file, but for what
takes most of its time, which differs by device and is handed in (`Operations`).

At batch 1, a token costs one read of the weights. transformers' modules add a third of a millisecond of Python a
layer, and on a CPU a matrix-vector product that runs on one core. Here are the same operations on the same
weights: plain functions on tensors, one for many rows (prefill) and one for a decode step (a token, or a draft
with the token before it), which torch.compile and a CUDA graph can take as they are.

Models differ by what `architecture` says of them, and by the weights that they have or have not; no model has a
function of its own.

Knows weights and shapes. Knows nothing of sampling, jobs, or when to compile.
Source: transformers, models/*/modeling_*.py; gpt-fast, model.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from transformers import PreTrainedModel

from .architecture import Architecture, Shape
from .kv_cache import StaticKVCache
from .matrices import Linear, Matrix, form_of, linear as linear_of_many, rows_of
from .small_modules import matrix_of
from .weights import Weights, layer_weights, norm_weight


class Layer(NamedTuple):
    """One layer, and its part of the cache."""

    shape: Shape
    weights: Weights
    keys: Tensor  # (kv_heads, capacity, head_dim)
    values: Tensor  # (kv_heads, capacity, head_dim)


class Ends(NamedTuple):
    """What stands before and behind the layers."""

    embedding: Matrix  # (vocab, hidden)
    embedding_multiplier: float
    norm: Tensor  # (hidden,)
    norm_epsilon: float
    head: Matrix  # (vocab, hidden)
    logits_multiplier: float


class Rotation(NamedTuple):
    """Of some positions, for rotary embedding: (rows, 1, turned) each.  `sin` has its first half negated."""

    cos: Tensor
    sin: Tensor


class View(NamedTuple):
    """What the rows of a step see: among the first `visible` tokens, what the other fields leave."""

    visible: int
    used: Tensor | None  # (rows,) int32: the first so many, for an `attend` that asks for it
    mask: Tensor | None  # (visible,) float32, for a single row: -inf where nothing is to be seen


Attend = Callable[[Tensor, Tensor, Tensor, View, float], Tensor]
"""(rows, query_heads, head_dim), keys, values, view, scale -> (rows, query_heads * head_dim)"""


class Operations(NamedTuple):
    """What takes the time of a step, and is done in other ways on other devices."""

    linear: Linear
    attend: Attend


class Decoder:
    """The weights of a model, and how they are applied to rows of token ids."""

    def __init__(self, model: PreTrainedModel, architecture: Architecture, cache: StaticKVCache) -> None:
        """Joins the matrices that are read together; the model's parameters become views of the joined ones."""
        family, multipliers = architecture.family, architecture.multipliers
        decoder = cast("Any", model).model  # torch annotates every attribute of a module as Tensor | Module
        self.layers: list[Layer] = []
        for shape, layer, keys, values in zip(
            architecture.layers, decoder.layers, cache.keys, cache.values, strict=True
        ):
            self.layers.append(Layer(shape, layer_weights(layer, family), keys, values))
            torch.cuda.empty_cache()  # pieces that were joined fit nothing else; without a GPU this does nothing
        self.ends = Ends(
            embedding=matrix_of(decoder.embed_tokens),
            embedding_multiplier=multipliers.embedding,
            norm=norm_weight(decoder.norm, family),
            norm_epsilon=architecture.layers[0].norm_epsilon,
            head=matrix_of(cast("Any", model).lm_head),
            logits_multiplier=multipliers.logits,
        )
        self._rotations = _rotations(decoder.rotary_emb, cache.capacity, decoder.norm.weight.detach())
        self._dtype = model.dtype
        self.linear_of_many: Linear = linear_of_many
        """Of `read`."""

    def forms(self) -> list[Matrix]:
        """A matrix of each form that a step multiplies by."""
        matrices = [self.ends.head]
        for layer in self.layers:
            weights = layer.weights
            matrices += [weights.qkv, weights.output, weights.gate_up, weights.down]
        return list({form_of(matrix): matrix for matrix in matrices}.values())

    def embed(self, ids: Tensor) -> Tensor:
        """From (rows,) int64 to (rows, hidden)."""
        return _times(rows_of(self.ends.embedding, ids, self._dtype), self.ends.embedding_multiplier)

    def rotation(self, positions: Tensor) -> Rotation:
        """positions: (rows,) int64 on the device."""
        return Rotation(self._rotations.cos[positions], self._rotations.sin[positions])

    def read(self, ids: Tensor, start: int, rows: int) -> Tensor:
        """Read tokens that follow on `start` others, for which the cache has room.  ids: (seq_len,) int64.

        Returns the logits after the last `rows` of them, (rows, vocab) float32.
        """
        hidden = self.embed(ids)
        rotation = self.rotation(torch.arange(start, start + len(ids), device=ids.device))
        for layer in self.layers:
            hidden = rows_through_layer(hidden, layer, rotation, start, self.linear_of_many)
        if not rows:  # a product of no rows is not free: small weights would be written out for it
            return hidden.new_empty((0, self.ends.head.shape[0]), dtype=torch.float32)
        return head(hidden[len(ids) - rows :], self.ends, linear=self.linear_of_many)


def rows_through_layer(hidden: Tensor, layer: Layer, rotation: Rotation, start: int, linear: Linear) -> Tensor:
    """Many rows at once, at the positions from `start` on.  hidden: (rows, hidden)."""
    end = start + len(hidden)
    query, key, value = _query_key_value(hidden, layer, rotation, linear)
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
        scale=layer.shape.attention_scale,
        enable_gqa=keys.shape[1] != query.shape[1],
    )
    hidden = _add_attention(hidden, attended[0].transpose(0, 1).flatten(1), layer, linear)
    return _add(hidden, _mlp(hidden, layer, linear), layer.weights.down_norm, layer.shape)


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
    attended = operations.attend(query, layer.keys, layer.values, view, layer.shape.attention_scale)
    hidden = _add_attention(hidden, attended, layer, linear)
    return _add(hidden, _mlp(hidden, layer, linear), layer.weights.down_norm, layer.shape)


def head(hidden: Tensor, ends: Ends, *, linear: Linear) -> Tensor:
    """From (rows, hidden) to logits, (rows, vocab) float32."""
    logits = linear(_norm(hidden, ends.norm, ends.norm_epsilon), ends.head)
    return _times(logits.float(), ends.logits_multiplier)


def _query_key_value(
    hidden: Tensor, layer: Layer, rotation: Rotation, linear: Linear
) -> tuple[Tensor, Tensor, Tensor]:
    """Each (rows, heads, head_dim); query and key are rotated."""
    shape, weights = layer.shape, layer.weights
    qkv = _product(_norm(hidden, weights.input_norm, shape.norm_epsilon), weights.qkv, weights.qkv_bias, linear)
    heads = qkv.view(hidden.shape[0], -1, shape.head_dim)
    turned, value = heads[:, : -shape.kv_heads], heads[:, -shape.kv_heads :]
    if weights.query_norm is not None:
        query = _norm_heads(turned[:, : shape.query_heads], weights.query_norm, shape)
        key = _norm_heads(turned[:, shape.query_heads :], weights.key_norm, shape)
        turned = torch.cat([query, key], 1)
    if shape.rotates:
        turned = _rotate(turned, rotation, shape.rotary_dim)
    return turned[:, : shape.query_heads], turned[:, shape.query_heads :], value


def _rotate(heads: Tensor, rotation: Rotation, width: int) -> Tensor:
    """Turn the first `width` numbers of each head, and leave the rest.  heads: (rows, n, head_dim)."""
    if width < heads.shape[-1]:
        return torch.cat([_rotate(heads[..., :width], rotation, width), heads[..., width:]], -1)
    # x * cos + rotate_half(x) * sin: a roll by half, as the minus of rotate_half is in the sine.
    turned = heads * rotation.cos + heads.roll(width // 2, -1) * rotation.sin
    return turned if turned.dtype == heads.dtype else turned.to(heads.dtype)


def attend(query: Tensor, keys: Tensor, values: Tensor, view: View, scale: float) -> Tensor:
    """See `Attend`; for a single row, in torch's own operations.  keys, values: (kv_heads, capacity, head_dim)."""
    # The query heads that share a key-value head are the rows of one product: nothing is repeated in memory.
    rows = query.view(keys.shape[0], -1, query.shape[-1])
    keys, values = keys[:, : view.visible], values[:, : view.visible]
    if view.mask is None:
        attended = functional.scaled_dot_product_attention(rows[None], keys[None], values[None], scale=scale)
    else:
        scores = _product_in_float32(rows, keys.transpose(1, 2)) * scale + view.mask
        attended = torch.bmm(scores.softmax(-1).to(query.dtype), values)
    return attended.reshape(1, -1)


def _product_in_float32(some: Tensor, others: Tensor) -> Tensor:
    """Of batches, (b, n, k) and (b, k, m) -> (b, n, m) float32.

    Scores of Qwen2 reach thousands, where bfloat16 counts in steps of 16 and float16 overflows: rounding them to
    either costs quality that can be measured. Source: transformers, pull request 33317.
    """
    if some.is_cuda:
        return torch.bmm(some, others, out_dtype=torch.float32)
    return torch.bmm(some.float(), others.float())


def _add_attention(hidden: Tensor, attended: Tensor, layer: Layer, linear: Linear) -> Tensor:
    """attended: (rows, query_heads * head_dim)."""
    update = _product(attended, layer.weights.output, layer.weights.output_bias, linear)
    return _add(hidden, update, layer.weights.attention_norm, layer.shape)


def _mlp(hidden: Tensor, layer: Layer, linear: Linear) -> Tensor:
    shape, weights = layer.shape, layer.weights
    normed = _norm(hidden, weights.mlp_norm, shape.norm_epsilon)
    gate, up = _product(normed, weights.gate_up, weights.gate_up_bias, linear).chunk(2, -1)
    gate = functional.silu(gate) if shape.activation == "silu" else functional.gelu(gate, approximate="tanh")
    return _product(gate * up, weights.down, weights.down_bias, linear)


def _add(hidden: Tensor, update: Tensor, norm: Tensor | None, shape: Shape) -> Tensor:
    return hidden + _times(_norm(update, norm, shape.norm_epsilon), shape.residual_multiplier)


def _product(rows: Tensor, matrix: Matrix, bias: Tensor | None, linear: Linear) -> Tensor:
    product = linear(rows, matrix)
    return product if bias is None else product + bias


def _times(rows: Tensor, multiplier: float) -> Tensor:
    return rows if multiplier == 1 else rows * multiplier


def _norm(rows: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """The root mean square norm over the last dimension; without a weight, there is none."""
    if weight is None:
        return rows
    if weight.dtype == rows.dtype:
        return torch.rms_norm(rows, weight.shape, weight, epsilon)
    # A weight of another dtype is float32, and the norm is taken in it.
    return torch.rms_norm(rows.to(weight.dtype), weight.shape, weight, epsilon).to(rows.dtype)


def _norm_heads(heads: Tensor, weight: Tensor | None, shape: Shape) -> Tensor:
    """Each head alone, or all as one, as long as the weight is.  heads: (rows, n, head_dim)."""
    assert weight is not None, "queries and keys have a norm each, or none"
    return _norm(heads.reshape(len(heads), -1, len(weight)), weight, shape.norm_epsilon).view(heads.shape)


def _rotations(rotary: nn.Module, positions: int, like: Tensor) -> Rotation:
    """Of every position, as the model's own module gives them, scaling included."""
    cos, sin = rotary(like[:1], torch.arange(positions, device=like.device)[None])
    half = sin.shape[-1] // 2
    return Rotation(cos[0][:, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)[:, None])
