"""The linear of many rows with a small matrix: written out, piece by piece, into memory that is kept for that.

A kernel reads values and writes numbers at the speed of memory, where torch's own operations take a dozen passes;
the product is torch's. On an H100 a layer of Qwen2-7B is written out in 240 µs, and multiplied in 186 µs more.
    python -m tests.benchmarks.products
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, N803, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from ..matrices import Int8Matrix, Matrix, SmallMatrix, part
from .small_matrix_rows import few_rows, takes
from .small_matrix_vector import matrix_vector

_PIECE = 2**25
"""Weights that are written out at once."""
_ROWS, _COLUMNS, _WARPS = 4, 1024, 4
"""Of a program."""


class Linear:
    """The linear of any number of rows, by kernels of ours as far as these go."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Allocates what numbers are written into, once."""
        self._numbers = torch.empty(_PIECE, dtype=dtype, device=device)

    def __call__(self, rows: Tensor, matrix: Matrix) -> Tensor:
        """(rows, in), (out, in) -> (rows, out)"""
        if isinstance(matrix, Tensor):
            return functional.linear(rows, matrix)
        if len(rows) == 1:
            return matrix_vector(rows, matrix)
        if takes(rows, matrix):
            return few_rows(rows, matrix)
        outputs, inputs = matrix.shape
        out = torch.empty((len(rows), outputs), dtype=rows.dtype, device=rows.device)
        at_once = max(_PIECE // inputs, 1)
        for start in range(0, outputs, at_once):
            piece = part(matrix, start, min(start + at_once, outputs))
            numbers = self._numbers[: piece.shape[0] * inputs].view(piece.shape)
            write_out(piece, numbers)
            torch.mm(rows, numbers.t(), out=out[:, start : start + len(numbers)])
        return out


def write_out(matrix: SmallMatrix, numbers: Tensor) -> None:
    """Its weights, as `matrices.to_float` has them, into `numbers`, (out, in)."""
    outputs, inputs = matrix.shape
    grid = triton.cdiv(outputs, _ROWS), triton.cdiv(inputs, _COLUMNS)
    if isinstance(matrix, Int8Matrix):
        _write_int8[grid](
            matrix.values, matrix.scales, numbers, outputs, inputs, _ROWS, _COLUMNS, num_warps=_WARPS
        )
        return
    _write_int4[grid](
        matrix.values,
        matrix.scales,
        matrix.scales if matrix.zeros is None else matrix.zeros,
        numbers,
        outputs,
        inputs // matrix.group,
        matrix.zeros is not None,
        _ROWS,
        _COLUMNS // 2,
        matrix.group // 2,
        num_warps=_WARPS,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _write_int8(  # type: ignore[no-untyped-def]
    values, scales, numbers, outputs, inputs, ROWS: tl.constexpr, PIECE: tl.constexpr
) -> None:
    outs = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ins = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    there = outs < outputs
    mask = there[:, None] & (ins < inputs)[None, :]
    at = outs[:, None].to(tl.int64) * inputs + ins[None, :]
    value = tl.load(values + at, mask=mask, other=0, eviction_policy="evict_first").to(tl.float32)
    scale = tl.load(scales + outs, mask=there, other=0)
    tl.store(numbers + at, (value * scale[:, None]).to(numbers.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _write_int4(  # type: ignore[no-untyped-def]
    values,
    scales,
    zeros,
    numbers,
    outputs,
    groups,
    HAS_ZEROS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECE: tl.constexpr,  # in bytes
    HALF: tl.constexpr,  # of a group
) -> None:
    outs = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    byte = tl.program_id(1) * PIECE + tl.arange(0, PIECE)[None, :]
    group = byte // HALF
    mask = (outs < outputs) & (group < groups)
    outs = outs.to(tl.int64)
    two = tl.load(values + outs * (groups * HALF) + byte, mask=mask, other=0, eviction_policy="evict_first")
    scale = tl.load(scales + outs * groups + group, mask=mask, other=0).to(tl.float32)
    zero = tl.load(zeros + outs * groups + group, mask=mask, other=0).to(tl.float32) if HAS_ZEROS else 8.0
    low = ((two & 15).to(tl.float32) - zero) * scale
    high = ((two >> 4).to(tl.float32) - zero) * scale
    to = numbers + outs * (groups * 2 * HALF) + group * (2 * HALF) + byte % HALF
    tl.store(to, low.to(numbers.dtype.element_ty), mask=mask)
    tl.store(to + HALF, high.to(numbers.dtype.element_ty), mask=mask)
