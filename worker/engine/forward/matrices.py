"""The forms of a matrix: as torch has it, or made small, in int8 by rows or in int4 by groups.

    int8    weight = value * scale                one scale a row
    int4    weight = (value - zero) * scale       a scale and, where there is one, a zero a group; else 8

A group is so many columns of a row that follow on each other. Its byte `i` holds column `i` in its low half and
column `i + group / 2` in its high half, so that both halves are read in the order of the row that they multiply.

What is here runs anywhere, in torch's own operations: the definition of the forms, and the products of many rows,
for which a matrix is written out piece by piece. What is faster is in `cpu`, `gpu` and `matrix_vector`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

GROUPS = (32, 64, 128)
"""Columns of a group."""
MIDDLE = 8
"""The zero of a group that has none of its own."""
_PIECE = 2**25
"""Weights that are written out at once."""


class Int8Matrix(NamedTuple):
    """(out, in), as a value for each weight and a scale for each row."""

    values: Tensor  # (out, in) int8
    scales: Tensor  # (out,) float32

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return self.values.shape[0], self.values.shape[1]


class Int4Matrix(NamedTuple):
    """(out, in), as two values a byte, and a scale for each group of columns."""

    values: Tensor  # (out, groups, group / 2) uint8
    scales: Tensor  # (out, groups), of any floating dtype
    zeros: Tensor | None  # (out, groups) uint8

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return self.values.shape[0], self.values.shape[1] * self.group

    @property
    def group(self) -> int:
        """Columns of a group."""
        return 2 * self.values.shape[2]


SmallMatrix = Int8Matrix | Int4Matrix
Matrix = Tensor | SmallMatrix
Linear = Callable[[Tensor, Matrix], Tensor]
"""(rows, in), (out, in) -> (rows, out)"""


def to_int8(weight: Tensor) -> Int8Matrix:
    """weight: (out, in), of any floating dtype.  The largest of a row becomes 127 or -127."""
    weight = weight.float()
    scales = weight.abs().amax(1) / 127
    divisors = torch.where(scales > 0, scales, 1)  # a row of zeros
    return Int8Matrix((weight / divisors[:, None]).round_().to(torch.int8), scales)


def to_int4(weight: Tensor, group: int, *, zeros: bool) -> Int4Matrix:
    """weight: (out, in), of any floating dtype; `group` divides in.

    zeros: from the least of a group to its largest, each of them 0 or on its other side, in 15 steps. Without, the
    largest by magnitude becomes -8 of a scale that may be negative, as in llama.cpp's Q4_0.
    Values are those nearest to the weights by the scale as it is kept, in bfloat16.
    """
    grouped = weight.float().unflatten(1, (-1, group))
    if zeros:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scales = ((high - low) / 15).bfloat16()
        divisors = torch.where(scales != 0, scales.float(), 1)
        zero = (-low / divisors).round_().clamp_(0, 15)
    else:
        furthest = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True))[..., 0]
        scales = (furthest / -MIDDLE).bfloat16()
        divisors = torch.where(scales != 0, scales.float(), 1)
        zero = torch.full_like(divisors, MIDDLE)
    values = (grouped / divisors[..., None] + zero[..., None]).round_().clamp_(0, 15).to(torch.uint8)
    return Int4Matrix(pack(values), scales, zero.to(torch.uint8) if zeros else None)


def pack(values: Tensor) -> Tensor:
    """From a byte for each value, (out, groups, group), to two values a byte, (out, groups, group / 2)."""
    low, high = values.chunk(2, -1)
    return low | (high << 4)


def unpack(values: Tensor) -> Tensor:
    """The other way round."""
    return torch.cat([values & 15, values >> 4], -1)


def to_float(matrix: SmallMatrix, dtype: torch.dtype) -> Tensor:
    """The weights, (out, in): exact in float32 where the scales are of 16 bits, and then rounded to `dtype`."""
    if isinstance(matrix, Int8Matrix):
        return (matrix.values.float() * matrix.scales[:, None]).to(dtype)
    zeros = MIDDLE if matrix.zeros is None else matrix.zeros.float()[..., None]
    weights = (unpack(matrix.values).float() - zeros) * matrix.scales.float()[..., None]
    return weights.flatten(1).to(dtype)


def linear(rows: Tensor, matrix: Matrix) -> Tensor:
    """(…, in), (out, in) -> (…, out)"""
    if isinstance(matrix, Tensor):
        return functional.linear(rows, matrix)
    outputs, inputs = matrix.shape
    at_once = max(_PIECE // inputs, 1)
    if outputs <= at_once:
        return functional.linear(rows, to_float(matrix, rows.dtype))
    pieces = (part(matrix, start, min(start + at_once, outputs)) for start in range(0, outputs, at_once))
    return torch.cat([functional.linear(rows, to_float(piece, rows.dtype)) for piece in pieces], -1)


def rows_of(matrix: Matrix, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """As an embedding.  ids: int64 of any shape.  Returns (*ids.shape, in)."""
    if isinstance(matrix, Tensor):
        return torch.embedding(matrix, ids)
    assert isinstance(matrix, Int8Matrix), "an embedding has no smaller form"
    return (matrix.values[ids].float() * matrix.scales[ids][..., None]).to(dtype)


def part(matrix: SmallMatrix, start: int, end: int) -> SmallMatrix:
    """Its outputs from `start` to `end`, as views."""
    if isinstance(matrix, Int8Matrix):
        return Int8Matrix(matrix.values[start:end], matrix.scales[start:end])
    zeros = None if matrix.zeros is None else matrix.zeros[start:end]
    return Int4Matrix(matrix.values[start:end], matrix.scales[start:end], zeros)


def empty_like(matrix: SmallMatrix, outputs: int) -> SmallMatrix:
    """Of the same form, with so many outputs, and of no values yet."""

    def empty(field: Tensor) -> Tensor:
        return field.new_empty((outputs, *field.shape[1:]))

    if isinstance(matrix, Int8Matrix):
        return Int8Matrix(empty(matrix.values), empty(matrix.scales))
    zeros = None if matrix.zeros is None else empty(matrix.zeros)
    return Int4Matrix(empty(matrix.values), empty(matrix.scales), zeros)


def joined(matrices: Sequence[Matrix]) -> Matrix:
    """One below the other. All are of one form; a zero that only some have is written out for the others."""
    first = matrices[0]
    if isinstance(first, Tensor):
        return torch.cat([matrix for matrix in matrices if isinstance(matrix, Tensor)])
    if isinstance(first, Int8Matrix):
        return Int8Matrix(*(torch.cat(fields) for fields in zip(*matrices, strict=True)))
    grouped = [matrix for matrix in matrices if isinstance(matrix, Int4Matrix)]
    zeros = None
    if any(matrix.zeros is not None for matrix in grouped):
        zeros = torch.cat(
            [
                torch.full_like(matrix.scales, MIDDLE, dtype=torch.uint8) if matrix.zeros is None else matrix.zeros
                for matrix in grouped
            ]
        )
    return Int4Matrix(
        torch.cat([matrix.values for matrix in grouped]), torch.cat([matrix.scales for matrix in grouped]), zeros
    )


def form_of(matrix: Matrix) -> str:
    """In words."""
    if isinstance(matrix, Int4Matrix):
        return f"int4 in groups of {matrix.group}"
    return "int8" if isinstance(matrix, Int8Matrix) else str(matrix.dtype).removeprefix("torch.")


def bytes_of(matrix: Matrix) -> int:
    """In memory."""
    fields = [matrix] if isinstance(matrix, Tensor) else matrix
    return sum(field.nbytes for field in fields if isinstance(field, Tensor))
