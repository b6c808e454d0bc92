"""The linear of a few rows with a small matrix: drafts, forced tokens, the rest of a prompt.

Tensor cores multiply numbers of 16 bits, and a value is made one for nothing: bits at the low end of a number are
a tiny, subnormal one, exactly so many times its smallest. What that is too small by is given back in the end; rows
of bfloat16 are made larger before, so that their products are not too small for float32. Two values stand in the
halves of a word, as two numbers stand in a register: one `and` makes both.

Sums are in float32 throughout. A group's products are summed before its scale multiplies them, so that weights are
what they are to the last bit, in rows of either dtype of 16 bits.

On an H100 a layer of Qwen2-7B takes 156 µs in int4 with 8 rows and 201 µs with 16, in int8 115 and 136 µs; torch's
products in bfloat16 take 186 µs. Scales that are fetched when they are needed, a turn too late, double the time.
    python -m tests.benchmarks.products
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, N803, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..agreement import require_agreement
from ..matrices import Int8Matrix, Matrix, SmallMatrix, linear
from .small_matrix_vector import of_that_form

MOST_ROWS = 16
"""With more, a matrix that is written out is faster."""
_OUTPUTS, _WARPS, _STAGES = 32, 4, 3
"""Of a program, for either form."""
_INT4_WORDS = 32
"""Of eight values, that are read at once of each output."""
_INT8_WORDS, _INT8_PARTS = 32, 4
"""Of four values, and so many parts of so many words that are read at once; warps share them out."""
_ENLARGED = {torch.bfloat16: 2.0**64, torch.float16: 1.0}
"""What rows are multiplied by before."""
_GIVEN_BACK = {torch.bfloat16: 2.0 ** (133 - 64), torch.float16: 2.0**24}
"""The inverse of the smallest number of the dtype, less what the rows were multiplied by."""


def linear_of_few(rows: Tensor, matrix: Matrix) -> Tensor:
    """(n, in), (out, in) -> (n, out), by our kernels where these can: for a step of several rows."""
    if not isinstance(matrix, Tensor) and takes(rows, matrix):
        return few_rows(rows, matrix)
    return linear(rows, matrix)


def takes(rows: Tensor, matrix: SmallMatrix) -> bool:
    """Whether `few_rows` does."""
    return len(rows) <= MOST_ROWS and rows.dtype in _ENLARGED and matrix.shape[1] % 4 == 0


def few_rows(rows: Tensor, matrix: SmallMatrix) -> Tensor:
    """(n, in), (out, in) -> (n, out), for what `takes` says."""
    rows = rows.contiguous()
    count = len(rows)
    outputs, inputs = matrix.shape
    out = torch.empty((count, outputs), dtype=rows.dtype, device=rows.device)
    padded = 8 if count <= 8 else 16  # what tensor cores take
    constants = _ENLARGED[rows.dtype], _GIVEN_BACK[rows.dtype]
    grid = (triton.cdiv(outputs, _OUTPUTS),)
    words = matrix.values.view(torch.int32)
    if isinstance(matrix, Int8Matrix):
        _rows_by_int8[grid](
            rows,
            words,
            matrix.scales,
            out,
            count,
            outputs,
            inputs // 4,
            padded,
            _OUTPUTS,
            _INT8_PARTS,
            _INT8_WORDS,
            _STAGES,
            *constants,
            num_warps=_WARPS,
        )
        return out
    _, groups, in_group = words.shape
    _rows_by_int4[grid](
        rows,
        words,
        matrix.scales,
        matrix.scales if matrix.zeros is None else matrix.zeros,
        out,
        count,
        outputs,
        groups,
        matrix.zeros is not None,
        padded,
        _OUTPUTS,
        _INT4_WORDS // in_group,
        in_group,
        _STAGES,
        *constants,
        num_warps=_WARPS,
    )
    return out


@torch.inference_mode()
def check(device: torch.device, dtype: torch.dtype, matrix: SmallMatrix) -> None:
    """Compare with torch's linear in float32 on this very card, for matrices of that form.

    Raises NotSupported where they differ.
    """
    generator = torch.Generator(device).manual_seed(0)
    for count, outputs, inputs in ((8, 64, 2048), (16, 33, 1152)):  # as tiles divide them, and as they do not
        rows = torch.randn((count, inputs), generator=generator, device=device).to(dtype)
        small = of_that_form(matrix, torch.randn((outputs, inputs), generator=generator, device=device))
        if takes(rows, small):
            require_agreement(
                "the product of rows with a small matrix", few_rows(rows, small), linear(rows.float(), small)
            )


@triton.jit  # type: ignore[untyped-decorator]
def _halves(two, dtype: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Both halves of words as numbers of 16 bits, in a dimension more."""
    low = two.to(tl.int16).to(dtype, bitcast=True)
    high = (two >> 16).to(tl.int16).to(dtype, bitcast=True)
    return tl.join(low, high)


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _rows_by_int8(  # type: ignore[no-untyped-def]
    rows,
    words,
    scales,
    out,
    count,
    outputs,
    length,  # of a row, in words
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    WORDS: tl.constexpr,
    STAGES: tl.constexpr,
    ENLARGED: tl.constexpr,
    GIVEN_BACK: tl.constexpr,
) -> None:
    dtype: tl.constexpr = rows.dtype.element_ty
    outs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    there = outs < outputs
    part, word, one = tl.arange(0, PARTS)[:, None] * WORDS, tl.arange(0, WORDS), tl.arange(0, ROWS)
    pair = 2 * part + tl.arange(0, 2 * WORDS)[None, :]  # of columns: a word's bytes are those of two
    known = one < count
    at = words + outs[None, :, None].to(tl.int64) * length + (part + word[None, :])[:, None, :]
    pairs = rows.to(tl.pointer_type(tl.int32), bitcast=True)
    pairs += one[None, None, :] * (2 * length) + pair[:, :, None]
    sums = tl.zeros((PARTS, OUTPUTS, ROWS), tl.float32)
    totals = tl.zeros((PARTS, OUTPUTS, ROWS), tl.float32)
    ones = tl.full((PARTS, OUTPUTS, 2 * WORDS), 1, tl.int16).to(dtype, bitcast=True)
    # Rows are fetched for the next turn: Triton does so by itself for what goes to a product as it is.
    coming = tl.load(pairs, mask=(pair < 2 * length)[:, :, None] & known[None, None, :], other=0)
    for start in tl.range(0, length, PARTS * WORDS, num_stages=STAGES):
        mask = there[None, :, None] & (start + part + word[None, :] < length)[:, None, :]
        four = tl.load(at + start, mask=mask, other=0, eviction_policy="evict_first")
        two = coming
        after = 2 * (start + PARTS * WORDS)
        seen = (after + pair < 2 * length)[:, :, None] & known[None, None, :]
        coming = tl.load(pairs + after, mask=seen, other=0)
        even = two.to(tl.int16).to(dtype, bitcast=True) * ENLARGED
        odd = (two >> 16).to(tl.int16).to(dtype, bitcast=True) * ENLARGED
        four = four ^ -0x7F7F7F80  # bytes from -128 to 127 become those from 0 to 255
        shape: tl.constexpr = [PARTS, OUTPUTS, 2 * WORDS]
        sums = tl.dot(_halves(four & 0x00FF00FF, dtype).reshape(shape), even, sums)
        sums = tl.dot(_halves((four >> 8) & 0x00FF00FF, dtype).reshape(shape), odd, sums)
        totals = tl.dot(ones, even, totals)
        totals = tl.dot(ones, odd, totals)
    scale = tl.load(scales + outs, mask=there, other=0)
    found = tl.sum(sums - 128 * totals, 0) * GIVEN_BACK * scale[:, None]
    to = out + one[None, :] * outputs + outs[:, None]
    tl.store(to, found.to(dtype), mask=there[:, None] & known[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _quarters(some, others, dtype: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """The lowest four bits of the halves of two words, as numbers: two of the one, two of the other."""
    both = tl.join(_halves(some & 0x000F000F, dtype), _halves(others & 0x000F000F, dtype))
    shape: tl.constexpr = [some.shape[0], some.shape[1], 4 * some.shape[2]]
    return tl.permute(both, (0, 1, 2, 4, 3)).reshape(shape)


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _rows_by_int4(  # type: ignore[no-untyped-def]
    rows,
    words,
    scales,
    zeros,
    out,
    count,
    outputs,
    groups,
    HAS_ZEROS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GROUPS: tl.constexpr,  # that are read at once
    WORDS: tl.constexpr,  # of a group
    STAGES: tl.constexpr,
    ENLARGED: tl.constexpr,
    GIVEN_BACK: tl.constexpr,
) -> None:
    dtype: tl.constexpr = rows.dtype.element_ty
    outs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    there = outs < outputs
    group, word, one, place = (
        tl.arange(0, GROUPS),
        tl.arange(0, WORDS),
        tl.arange(0, ROWS),
        tl.arange(0, 4 * WORDS),
    )
    known = one < count
    of_groups = outs[None, :].to(tl.int64) * groups + group[:, None]
    at = words + of_groups[:, :, None] * WORDS + word[None, None, :]
    # A word's bytes are four columns that follow on each other, in either half of a group. Its first and third go
    # into one product, in the order in which `_quarters` has them, and its second and fourth into the other.
    pair = place // 4 * 2 + place % 2 + place // 2 % 2 * (2 * WORDS)
    pairs = rows.to(tl.pointer_type(tl.int32), bitcast=True)
    pairs += one[None, None, :] * (groups * 4 * WORDS) + (group[:, None] * (4 * WORDS) + pair[None, :])[:, :, None]
    sums = tl.zeros((GROUPS, OUTPUTS, ROWS), tl.float32)
    ones = tl.full((GROUPS, OUTPUTS, 4 * WORDS), 1, tl.int16).to(dtype, bitcast=True)
    # Rows, scales and zeros are fetched for the next turn: Triton does so by itself for words alone.
    mask = (group < groups)[:, None] & there[None, :]
    coming = tl.load(pairs, mask=(group < groups)[:, None, None] & known[None, None, :], other=0)
    coming_scale = tl.load(scales + of_groups, mask=mask, other=0)
    coming_zero = tl.load(zeros + of_groups, mask=mask, other=0)
    for start in tl.range(0, groups, GROUPS, num_stages=STAGES):
        mask = (start + group < groups)[:, None] & there[None, :]
        eight = tl.load(at + start * WORDS, mask=mask[:, :, None], other=0, eviction_policy="evict_first")
        two, scale, zero = coming, coming_scale.to(tl.float32), coming_zero.to(tl.float32)
        after = start + GROUPS
        mask = (after + group < groups)[:, None] & there[None, :]
        seen = (after + group < groups)[:, None, None] & known[None, None, :]
        coming = tl.load(pairs + after * (4 * WORDS), mask=seen, other=0)
        coming_scale = tl.load(scales + of_groups + after, mask=mask, other=0)
        coming_zero = tl.load(zeros + of_groups + after, mask=mask, other=0)
        even = two.to(tl.int16).to(dtype, bitcast=True) * ENLARGED
        odd = (two >> 16).to(tl.int16).to(dtype, bitcast=True) * ENLARGED
        found = tl.dot(_quarters(eight, eight >> 4, dtype), even)
        found = tl.dot(_quarters(eight >> 8, eight >> 12, dtype), odd, found)
        totals = tl.dot(ones, even)
        totals = tl.dot(ones, odd, totals)
        if HAS_ZEROS:
            found -= zero[:, :, None] * totals
        else:
            found -= 8.0 * totals
        sums += scale[:, :, None] * found
    found = tl.sum(sums, 0) * GIVEN_BACK
    to = out + one[None, :] * outputs + outs[:, None]
    tl.store(to, found.to(dtype), mask=there[:, None] & known[None, :])
