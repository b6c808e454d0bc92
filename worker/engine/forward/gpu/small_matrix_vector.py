"""The linear of a single row with a small matrix, whose values become numbers in registers: see `matrices`.

int4 is read in units of four words, which are 32 columns: a thread has one of them, of several outputs, and all of
the row that it multiplies. A value needs no conversion, which a GPU does slowly: its four bits, where they are in
the word, are a tiny, subnormal float32. What that is too small by is taken from the row, and given back to the
sum, both by powers of two.

On an H100 the four matrices of a layer of Qwen2-7B take 72 µs in int4, in groups of 32 with zeros, and 93 µs in
int8; in bfloat16 they take 162 µs. Of 20 other choices for int4 none was faster.
    python -m tests.benchmarks.products
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, N803, N806, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..agreement import require_agreement
from ..matrices import Int4Matrix, Int8Matrix, Matrix, SmallMatrix, linear, to_int4, to_int8
from .matrix_vector import matrix_vector as of_float

_ROWS, _PIECE, _WARPS, _STAGES = 4, 512, 2, 3
"""Of int8: outputs of a program, columns that are read at once of each, warps, pieces on their way."""
_INT4_ROWS, _UNITS, _INT4_WARPS, _INT4_STAGES = 4, 32, 1, 3
"""Of int4: the outputs that the kernel writes out one by one, and a unit for each thread."""
_UNIT = 32
"""Columns of a unit."""


def matrix_vector(row: Tensor, matrix: Matrix) -> Tensor:
    """(1, in), (out, in) -> (1, out). The products are summed in float32."""
    if isinstance(matrix, Tensor):
        return of_float(row, matrix)
    outputs, inputs = matrix.shape
    out = torch.empty((1, outputs), dtype=row.dtype, device=row.device)
    if isinstance(matrix, Int8Matrix):
        _sums_of_int8[(triton.cdiv(outputs, _ROWS),)](
            row, matrix.values, matrix.scales, out, outputs, inputs, _ROWS, _PIECE, _STAGES, num_warps=_WARPS
        )
        return out
    _sums_of_int4[(triton.cdiv(outputs, _INT4_ROWS),)](
        row,
        matrix.values.view(torch.int32),
        matrix.scales,
        matrix.scales if matrix.zeros is None else matrix.zeros,
        out,
        outputs,
        inputs // _UNIT,
        matrix.zeros is not None,
        _UNITS,
        matrix.group // _UNIT,
        _INT4_STAGES,
        num_warps=_INT4_WARPS,
    )
    return out


@torch.inference_mode()
def check(device: torch.device, dtype: torch.dtype, matrix: SmallMatrix) -> None:
    """Compare with torch's linear in float32 on this very card, for matrices of that form.

    Raises NotSupported where they differ.
    """
    generator = torch.Generator(device).manual_seed(0)
    for outputs, inputs in ((32, 2048), (33, 1152)):  # as tiles divide them, and as they do not
        row = torch.randn((1, inputs), generator=generator, device=device).to(dtype)
        small = of_that_form(matrix, torch.randn((outputs, inputs), generator=generator, device=device))
        require_agreement(
            "the product of a row with a small matrix", matrix_vector(row, small), linear(row.float(), small)
        )


def of_that_form(matrix: SmallMatrix, weight: Tensor) -> SmallMatrix:
    """weight: (out, in) float32, to be as small as `matrix` is."""
    if isinstance(matrix, Int4Matrix):
        return to_int4(weight, matrix.group, zeros=matrix.zeros is not None)
    return to_int8(weight)


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


@triton.jit
def _four(numbers):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """(…, 2, 2) as four tensors."""
    even, odd = tl.split(numbers)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _factors(columns):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """What a word's values multiply, each over what its place makes of the value; and the sum of all, as it is.

    columns: (units, 2, 2, 2), of the halves of a group and a word's bytes.
    """
    LARGER: tl.constexpr = 2.0**80
    first, second, third, fourth = _four(columns)
    x0, y0 = tl.split(first)
    x1, y1 = tl.split(second)
    x2, y2 = tl.split(third)
    x3, y3 = tl.split(fourth)
    total = ((x0 + x1) + (x2 + x3)) + ((y0 + y1) + (y2 + y3))
    x0, y0, x1, y1 = x0 * LARGER, y0 * (LARGER / 16), x1 * (LARGER / 256), y1 * (LARGER / 4096)
    x2, y2, x3, y3 = x2 * LARGER, y2 * (LARGER / 16), x3 * (LARGER / 256), y3 * (LARGER / 4096)
    return total, x0, y0, x1, y1, x2, y2, x3, y3


@triton.jit
def _added(total, word, factors):  # type: ignore[no-untyped-def]  # noqa: ANN202
    upper = word >> 16
    total += (word & 0xF).to(tl.float32, bitcast=True) * factors[1]
    total += (word & 0xF0).to(tl.float32, bitcast=True) * factors[2]
    total += (word & 0xF00).to(tl.float32, bitcast=True) * factors[3]
    total += (word & 0xF000).to(tl.float32, bitcast=True) * factors[4]
    total += (upper & 0xF).to(tl.float32, bitcast=True) * factors[5]
    total += (upper & 0xF0).to(tl.float32, bitcast=True) * factors[6]
    total += (upper & 0xF00).to(tl.float32, bitcast=True) * factors[7]
    total += (upper & 0xF000).to(tl.float32, bitcast=True) * factors[8]
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _products_of_int4(  # type: ignore[no-untyped-def]  # noqa: ANN202
    output,
    words,
    scales,
    zeros,
    units,
    at,
    inside,
    first,
    second,
    third,
    fourth,
    HAS_ZEROS: tl.constexpr,
    UNITS: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Of one output, unit by unit."""
    GIVEN_BACK: tl.constexpr = 2.0 ** (149 - 80)  # the smallest float32 is 2^-149
    four = words + (output * units + at)[:, None] * 4 + tl.arange(0, 4)[None, :]
    four = tl.load(four, mask=inside[:, None], other=0, eviction_policy="evict_first").to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = _four(tl.reshape(four, [UNITS, 2, 2]))
    of_group = output * (units // SHARED) + at // SHARED
    scale = tl.load(scales + of_group, mask=inside, other=0).to(tl.float32)
    found = tl.zeros((UNITS,), tl.float32)
    found = _added(_added(_added(_added(found, w0, first), w1, second), w2, third), w3, fourth)
    total = (first[0] + second[0]) + (third[0] + fourth[0])
    if HAS_ZEROS:
        # As a float32 without a conversion: a byte is the last bits of a number of which 2^23 is then taken off.
        zero = tl.load(zeros + of_group, mask=inside, other=0).to(tl.int32) | 0x4B000000
        return scale * (found * GIVEN_BACK - (zero.to(tl.float32, bitcast=True) - 8388608.0) * total)
    return scale * (found * GIVEN_BACK - 8.0 * total)


@triton.jit  # type: ignore[untyped-decorator]
def _sums_of_int4(  # type: ignore[no-untyped-def]
    row,
    words,
    scales,
    zeros,
    out,
    outputs,
    units,
    HAS_ZEROS: tl.constexpr,
    UNITS: tl.constexpr,  # that are read at once
    SHARED: tl.constexpr,  # units of a group, which have one scale
    STAGES: tl.constexpr,
) -> None:
    out0 = tl.program_id(0).to(tl.int64) * 4
    last = outputs - 1  # is read again where there are no more
    out1, out2, out3 = tl.minimum(out0 + 1, last), tl.minimum(out0 + 2, last), tl.minimum(out0 + 3, last)
    unit = tl.arange(0, UNITS)
    half, column = tl.arange(0, 2)[None, :, None], tl.arange(0, 16)[None, None, :]
    sum0 = tl.zeros((UNITS,), tl.float32)
    sum1, sum2, sum3 = sum0, sum0, sum0
    for start in tl.range(0, units, UNITS, num_stages=STAGES):
        at = start + unit
        inside = at < units
        if SHARED == 1:  # columns follow on each other, which is loaded faster when it is said so
            columns = row + at[:, None] * 32 + tl.arange(0, 32)[None, :]
            known = inside[:, None]
        else:
            of_unit = at // SHARED * (32 * SHARED) + at % SHARED * 16
            columns = row + of_unit[:, None, None] + half * (16 * SHARED) + column
            known = inside[:, None, None]
        x = tl.load(columns, mask=known, other=0).to(tl.float32)
        # From (units, halves, words, bytes) to words in the end.
        x = tl.permute(tl.reshape(x, [UNITS, 2, 2, 2, 2, 2]), (0, 1, 4, 5, 2, 3))
        f0, f1, f2, f3 = _four(x)
        f0, f1, f2, f3 = _factors(f0), _factors(f1), _factors(f2), _factors(f3)
        sum0 += _products_of_int4(
            out0, words, scales, zeros, units, at, inside, f0, f1, f2, f3, HAS_ZEROS, UNITS, SHARED
        )
        sum1 += _products_of_int4(
            out1, words, scales, zeros, units, at, inside, f0, f1, f2, f3, HAS_ZEROS, UNITS, SHARED
        )
        sum2 += _products_of_int4(
            out2, words, scales, zeros, units, at, inside, f0, f1, f2, f3, HAS_ZEROS, UNITS, SHARED
        )
        sum3 += _products_of_int4(
            out3, words, scales, zeros, units, at, inside, f0, f1, f2, f3, HAS_ZEROS, UNITS, SHARED
        )
    dtype: tl.constexpr = out.dtype.element_ty
    tl.store(out + out0, tl.sum(sum0, 0).to(dtype))
    tl.store(out + out1, tl.sum(sum1, 0).to(dtype))
    tl.store(out + out2, tl.sum(sum2, 0).to(dtype))
    tl.store(out + out3, tl.sum(sum3, 0).to(dtype))
