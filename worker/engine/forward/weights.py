"""A layer's weights as `decoder` reads them: taken from its modules, and joined where they are read together."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .architecture import Family
from .matrices import Matrix, joined as joined_matrices, part
from .small_modules import matrix_of


class Weights(NamedTuple):
    """Of one layer.  Matrices are (out, in); norms and biases are as long as what they are for, or None."""

    input_norm: Tensor | None
    qkv: Matrix  # ((query_heads + 2 * kv_heads) * head_dim, hidden)
    qkv_bias: Tensor | None
    query_norm: Tensor | None  # (head_dim,), or (query_heads * head_dim,)
    key_norm: Tensor | None  # (head_dim,), or (kv_heads * head_dim,)
    output: Matrix  # (hidden, query_heads * head_dim)
    output_bias: Tensor | None
    attention_norm: Tensor | None
    mlp_norm: Tensor | None
    gate_up: Matrix  # (2 * intermediate, hidden)
    gate_up_bias: Tensor | None
    down: Matrix  # (hidden, intermediate)
    down_bias: Tensor | None
    down_norm: Tensor | None


def layer_weights(layer: nn.Module, family: Family) -> Weights:
    """Of one layer of a model. Its parameters become views of the joined matrices."""
    names = family.names

    def norm(name: str | None) -> Tensor | None:
        return norm_weight(layer.get_submodule(name), family) if name else None

    def joined(*names: str) -> tuple[Matrix, Tensor | None]:
        linears: list[Any] = [layer.get_submodule(name) for name in names]
        biases = [linear.bias for linear in linears if linear.bias is not None]
        return _join_matrices(linears), _join(biases) if biases else None

    qkv, qkv_bias = joined(*names.qkv)
    output, output_bias = joined(names.output)
    gate_up, gate_up_bias = joined(*names.gate_up)
    down, down_bias = joined(names.down)
    return Weights(
        input_norm=norm(names.input_norm),
        qkv=qkv,
        qkv_bias=qkv_bias,
        query_norm=norm(names.query_norm),
        key_norm=norm(names.key_norm),
        output=output,
        output_bias=output_bias,
        attention_norm=norm(names.attention_norm),
        mlp_norm=norm(names.mlp_norm),
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
        down_norm=norm(names.down_norm),
    )


def _join_matrices(linears: list[Any]) -> Matrix:
    """One of several, whose linears become its views: nothing is held twice."""
    matrices = [matrix_of(linear) for linear in linears]
    if len(matrices) == 1:
        return matrices[0]
    if isinstance(matrices[0], Tensor):
        return _join([linear.weight for linear in linears])
    whole = joined_matrices(matrices)
    assert not isinstance(whole, Tensor), "all are small"
    start = 0
    for linear, matrix in zip(linears, matrices, strict=True):
        end = start + matrix.shape[0]
        linear.matrix = part(whole, start, end)
        start = end
    return whole


def _join(parameters: list[nn.Parameter]) -> Tensor:
    """One tensor of several, whose parameters become its views: nothing is held twice."""
    if len(parameters) == 1:
        return parameters[0].detach()
    joined = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, view in zip(
        parameters, joined.split([len(parameter) for parameter in parameters]), strict=True
    ):
        parameter.data = view
    return joined


def norm_weight(module: nn.Module, family: Family) -> Tensor:
    """What a norm multiplies by: the parameter itself, or float32 where that is one less."""
    weight = module.get_parameter("weight").detach()
    return weight.float() + 1 if family.one_added else weight
