"""The linear of a single row with a small matrix, whose values become numbers in registers: see `matrices`.

int4 is read in words of eight values. A value is made a float32 without a conversion, which a GPU does slowly: its
four bits, where they are in the word, are the last bits of a number of which 2^23 is then taken off. What that is
too large by, a power of 16, is taken from the row, exactly.
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, N803, N806, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..agreement import require_agreement
from ..matrices import Int4Matrix, Int8Matrix, Matrix, linear, to_int4, to_int8
from .matrix_vector import matrix_vector as of_float

_ROWS, _WARPS, _STAGES = 4, 2, 3
_PIECE = 1024
"""Columns of int8 that are read at once."""
_WORDS = 128
"""Words of int4 that are read at once, of each row."""


def matrix_vector(row: Tensor, matrix: Matrix) -> Tensor:
    """(1, in), (out, in) -> (1, out). The products are summed in float32."""
    if isinstance(matrix, Tensor):
        return of_float(row, matrix)
    outputs, inputs = matrix.shape
    out = torch.empty((1, outputs), dtype=row.dtype, device=row.device)
    grid = (triton.cdiv(outputs, _ROWS),)
    if isinstance(matrix, Int8Matrix):
        _sums_of_int8[grid](
            row, matrix.values, matrix.scales, out, outputs, inputs, _ROWS, _PIECE, _STAGES, num_warps=_WARPS
        )
        return out
    words = matrix.values.view(torch.int32)
    _, groups, in_group = words.shape
    _sums_of_int4[grid](
        row,
        words,
        matrix.scales,
        matrix.scales if matrix.zeros is None else matrix.zeros,
        out,
        outputs,
        groups,
        matrix.zeros is not None,
        _ROWS,
        _WORDS // in_group,
        in_group,
        _STAGES,
        num_warps=_WARPS,
    )
    return out


@torch.inference_mode()
def check(device: torch.device, dtype: torch.dtype, matrix: Matrix) -> None:
    """Compare with torch's linear in float32 on this very card, for matrices of that form.

    Raises NotSupported where they differ.
    """
    if isinstance(matrix, Tensor):
        return
    generator = torch.Generator(device).manual_seed(0)
    for outputs, inputs in ((64, 4096), (33, 1152)):  # as tiles divide them, and as they do not
        row = torch.randn((1, inputs), generator=generator, device=device).to(dtype)
        weight = torch.randn((outputs, inputs), generator=generator, device=device)
        small = (
            to_int4(weight, matrix.group, zeros=matrix.zeros is not None)
            if isinstance(matrix, Int4Matrix)
            else to_int8(weight)
        )
        require_agreement(
            "the product of a row with a small matrix", matrix_vector(row, small), linear(row.float(), small)
        )


@triton.jit  # type: ignore[untyped-decorator]
def _sums_of_int8(  # type: ignore[no-untyped-def]
    row, values, scales, out, outputs, inputs, ROWS: tl.constexpr, PIECE: tl.constexpr, STAGES: tl.constexpr
) -> None:
    outs = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ins = tl.arange(0, PIECE)
    pieces = values + outs[:, None].to(tl.int64) * inputs + ins[None, :]
    sums = tl.zeros((ROWS, PIECE), tl.float32)
    for start in tl.range(0, inputs, PIECE, num_stages=STAGES):
        inside = start + ins < inputs
        mask = inside[None, :] & (outs < outputs)[:, None]
        piece = tl.load(pieces + start, mask=mask, other=0, eviction_policy="evict_first").to(tl.float32)
        factors = tl.load(row + start + ins, mask=inside, other=0, eviction_policy="evict_last").to(tl.float32)
        sums += piece * factors[None, :]
    scale = tl.load(scales + outs, mask=outs < outputs, other=0)
    tl.store(out + outs, (tl.sum(sums, 1) * scale).to(out.dtype.element_ty), mask=outs < outputs)


@triton.jit  # type: ignore[untyped-decorator]
def _values_at(words, MASK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """What stands under a mask of four bits below the 23rd, as float32."""
    return ((words & MASK) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0


@triton.jit
def _factor(at, mask):  # type: ignore[no-untyped-def]  # noqa: ANN202
    return tl.load(at, mask=mask, other=0, eviction_policy="evict_last").to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _sums_of_int4(  # type: ignore[no-untyped-def]
    row,
    words,
    scales,
    zeros,
    out,
    outputs,
    groups,
    HAS_ZEROS: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,  # that are read at once
    WORDS: tl.constexpr,  # of a group
    STAGES: tl.constexpr,
) -> None:
    outs = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = outs < outputs
    group = tl.arange(0, GROUPS)
    word = tl.arange(0, WORDS)
    HALF: tl.constexpr = 4 * WORDS
    of_group = outs[:, None].to(tl.int64) * groups + group[None, :]
    sums = tl.zeros((ROWS, GROUPS, WORDS), tl.float32)
    for start in tl.range(0, groups, GROUPS, num_stages=STAGES):
        inside = start + group < groups
        mask = there[:, None] & inside[None, :]
        at = words + (of_group + start)[:, :, None] * WORDS + word[None, None, :]
        eight = tl.load(at, mask=mask[:, :, None], other=0, eviction_policy="evict_first")
        scale = tl.load(scales + of_group + start, mask=mask, other=0).to(tl.float32)
        # A word's bytes are columns that follow on each other, their halves columns of both halves of a group.
        low = row + (start + group)[:, None] * (2 * HALF) + 4 * word[None, :]
        known = inside[:, None] & (word < WORDS)[None, :]
        x0, x1, x2, x3 = (
            _factor(low, known),
            _factor(low + 1, known),
            _factor(low + 2, known),
            _factor(low + 3, known),
        )
        high = low + HALF
        y0, y1 = _factor(high, known), _factor(high + 1, known)
        y2, y3 = _factor(high + 2, known), _factor(high + 3, known)
        total = ((x0 + x1) + (x2 + x3)) + ((y0 + y1) + (y2 + y3))
        upper = eight >> 20
        product = _values_at(eight, 0xF) * x0[None, :, :]
        product += _values_at(eight, 0xF0) * (y0 / 16)[None, :, :]
        product += _values_at(eight, 0xF00) * (x1 / 256)[None, :, :]
        product += _values_at(eight, 0xF000) * (y1 / 4096)[None, :, :]
        product += _values_at(eight, 0xF0000) * (x2 / 65536)[None, :, :]
        product += _values_at(upper, 0xF) * y2[None, :, :]
        product += _values_at(upper, 0xF0) * (x3 / 16)[None, :, :]
        product += _values_at(upper, 0xF00) * (y3 / 256)[None, :, :]
        if HAS_ZEROS:
            zero = tl.load(zeros + of_group + start, mask=mask, other=0).to(tl.float32)
            product -= zero[:, :, None] * total[None, :, :]
        else:
            product -= 8.0 * total[None, :, :]
        sums += scale[:, :, None] * product
    found = tl.sum(tl.sum(sums, 2), 1)
    tl.store(out + outs, found.to(out.dtype.element_ty), mask=there)
