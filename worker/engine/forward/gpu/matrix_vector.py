"""The linear of a single row. A program sums a few rows of the matrix, which it reads in pieces, fetched ahead.

On an H200 the four matrices of a layer of Qwen2-7B take 118 µs, which is 0.97 of the speed of a copy. torch's
linear takes 130 µs, and the sums that Inductor makes of `(matrix * row).sum(-1)` took 200 µs.
    python -m tests.benchmarks.products
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, N803, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from ..agreement import require_agreement

_ROWS, _PIECE, _STAGES, _WARPS = 4, 512, 3, 2
"""Rows of a program, columns of a piece, pieces on their way, warps. On the H200, none of 131 other choices was
more than 3 % faster."""


def matrix_vector(row: Tensor, matrix: Tensor) -> Tensor:
    """(1, in), (out, in) -> (1, out). The products are summed in float32."""
    outputs, inputs = matrix.shape
    out = torch.empty((1, outputs), dtype=row.dtype, device=row.device)
    _sums_of_products[(triton.cdiv(outputs, _ROWS),)](
        row, matrix, out, outputs, inputs, matrix.stride(0), _ROWS, _PIECE, _STAGES, num_warps=_WARPS
    )
    return out


@torch.inference_mode()
def check(device: torch.device, dtype: torch.dtype) -> None:
    """Compare with torch's linear in float32 on this very card.  Raises NotSupported where they differ."""
    generator = torch.Generator(device).manual_seed(0)
    for outputs, inputs in ((1024, 4096), (33, 1000)):  # as tiles divide them, and as they do not
        row = torch.randn((1, inputs), generator=generator, device=device).to(dtype)
        matrix = torch.randn((outputs, inputs), generator=generator, device=device).to(dtype)
        expected = functional.linear(row.float(), matrix.float())
        require_agreement("the product of a row with a matrix", matrix_vector(row, matrix), expected)


@triton.jit  # type: ignore[untyped-decorator]
def _sums_of_products(  # type: ignore[no-untyped-def]
    row,
    matrix,
    out,
    # Numbers, and not a compiler's variables: Triton knows of a number that 16 divides it, and loads more at once.
    outputs,
    inputs,
    stride,
    ROWS: tl.constexpr,
    PIECE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    outs = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ins = tl.arange(0, PIECE)
    pieces = matrix + outs[:, None].to(tl.int64) * stride + ins[None, :]
    sums = tl.zeros((ROWS, PIECE), tl.float32)
    for start in tl.range(0, inputs, PIECE, num_stages=STAGES):
        inside = start + ins < inputs
        mask = inside[None, :] & (outs < outputs)[:, None]
        # Read once, and not to drive out the row, which every program reads.
        piece = tl.load(pieces + start, mask=mask, other=0, eviction_policy="evict_first").to(tl.float32)
        factors = tl.load(row + start + ins, mask=inside, other=0, eviction_policy="evict_last").to(tl.float32)
        sums += piece * factors[None, :]
    tl.store(out + outs, tl.sum(sums, 1).to(out.dtype.element_ty), mask=outs < outputs)
