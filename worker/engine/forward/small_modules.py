"""Small matrices in a model of transformers: in place of its linears and embeddings, whichever path runs it."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .matrices import Int4Matrix, Int8Matrix, Linear, Matrix, SmallMatrix, linear, rows_of, to_float


class _Small(nn.Module):
    """Holds a matrix as buffers, which go to a device with the model."""

    values: Tensor
    scales: Tensor
    zeros: Tensor | None

    def __init__(self, matrix: SmallMatrix, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.matrix = matrix

    @property
    def matrix(self) -> SmallMatrix:
        """What it multiplies by."""
        if self.values.dim() == 2:
            return Int8Matrix(self.values, self.scales)
        return Int4Matrix(self.values, self.scales, self.zeros)

    @matrix.setter
    def matrix(self, matrix: SmallMatrix) -> None:
        self.register_buffer("values", matrix.values)
        self.register_buffer("scales", matrix.scales)
        self.register_buffer("zeros", getattr(matrix, "zeros", None))

    @property
    def weight(self) -> Tensor:
        """Written out, for models that reach past the module."""
        return to_float(self.matrix, self.dtype)


class SmallLinear(_Small):
    """In place of nn.Linear."""

    def __init__(self, matrix: SmallMatrix, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        """dtype: of the rows that it is to multiply."""
        super().__init__(matrix, dtype)
        self.bias = bias
        self.linear: Linear = linear
        self.out_features, self.in_features = matrix.shape

    def forward(self, rows: Tensor) -> Tensor:
        """(…, in) -> (…, out)"""
        product = self.linear(rows, self.matrix)
        return product if self.bias is None else product + self.bias


class SmallEmbedding(_Small):
    """In place of nn.Embedding, and of those of Gemma's kind, which multiply its rows."""

    def __init__(self, matrix: SmallMatrix, dtype: torch.dtype, scale: Tensor | float | None = None) -> None:
        """scale: what rows are multiplied by, if they are."""
        super().__init__(matrix, dtype)
        if isinstance(scale, Tensor):
            self.register_buffer("embed_scale", scale, persistent=False)
        else:
            self.embed_scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        """(…) int64 -> (…, hidden)"""
        rows, scale = rows_of(self.matrix, ids, self.dtype), self.embed_scale
        if scale is None:
            return rows
        return rows * (scale.to(self.dtype) if isinstance(scale, Tensor) else scale)


def matrix_of(module: Any) -> Matrix:
    """Of a linear or an embedding, small or not."""
    matrix: Matrix = module.matrix if isinstance(module, _Small) else module.weight.detach()
    return matrix


def small_modules(model: nn.Module) -> dict[str, SmallLinear | SmallEmbedding]:
    """By their names."""
    modules = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if isinstance(module, SmallLinear | SmallEmbedding)}


def dtype_of(model: PreTrainedModel) -> torch.dtype:
    """Of rows. A model may have no parameter left to tell it: OLMo's norms have no weights."""
    small = next(iter(small_modules(model).values()), None)
    return model.dtype if small is None else small.dtype


def parameters_of(model: nn.Module) -> int:
    """Number of weights, however small they are. What two modules share counts once."""
    counted = {tensor.data_ptr(): tensor.numel() for tensor in model.parameters()}
    for module in small_modules(model).values():
        outputs, inputs = module.matrix.shape
        counted[module.values.data_ptr()] = outputs * inputs
    return sum(counted.values())
