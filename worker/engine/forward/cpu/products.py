"""The linear by our operator, and where torch's own is faster.

No choice hangs on a measurement: how a row is multiplied is told by the matrix, the number of rows and what the
processor can do.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..agreement import require_agreement
from ..matrices import Int4Matrix, Int8Matrix, Matrix, to_float, to_int4, to_int8
from .library import load

DTYPES = torch.float32, torch.bfloat16
"""Of rows."""
_MOST_ROWS = 64
"""Of more, torch's product of float32 is as fast."""
_PIECE = 2**23
"""Weights that are written out at once."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}


def linear(rows: Tensor, matrix: Matrix) -> Tensor:
    """(rows, in), (out, in) -> (rows, out). Rows are float32 or bfloat16; the products are summed in float32."""
    return _operator(rows, *_fields(matrix))


class Linear:
    """The linear of any number of rows: by our operator, or by torch's product, which is faster with many.

    Where torch has none, a matrix is written out in float32, piece by piece: a twentieth of the time of 256 rows.
    """

    def __init__(self) -> None:
        self._numbers = torch.empty(_PIECE)
        """What is written into, kept: memory that is new costs ten times as much as the writing."""

    def __call__(self, rows: Tensor, matrix: Matrix) -> Tensor:
        """(…, in), (out, in) -> (…, out)"""
        flat = rows.reshape(-1, rows.shape[-1])
        if isinstance(matrix, Tensor) and len(flat) > _most_rows(matrix.dtype):
            return functional.linear(rows, matrix)
        product = self._of_many(flat, matrix) if len(flat) > _MOST_ROWS else linear(flat, matrix)
        return product.view(*rows.shape[:-1], matrix.shape[0])

    def _of_many(self, rows: Tensor, matrix: Matrix) -> Tensor:
        outputs, inputs = matrix.shape
        floats = rows.float()
        out = floats.new_empty((len(rows), outputs))
        at_once = max(_PIECE // inputs, 1)
        for start in range(0, outputs, at_once):
            piece = [field if field is None else field[start : start + at_once] for field in _fields(matrix)]
            products = out[:, start : start + at_once]
            weights = self._numbers[: products.shape[1] * inputs].view(-1, inputs)
            _write_out(piece, weights)
            torch.mm(floats, weights.t(), out=products)
        return out.to(rows.dtype)


def _most_rows(dtype: torch.dtype) -> float:
    """Of more, torch's own product with a matrix of floats is as fast."""
    if dtype == torch.float32:
        return _MOST_ROWS
    return 1 if _multiplies_bfloat16() else math.inf


def _multiplies_bfloat16() -> bool:
    """Whether torch has fast products of bfloat16 here. Others take five times as long as those of float32."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def _fields(matrix: Matrix) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As the operators take them: values, scales, zeros."""
    if isinstance(matrix, Tensor):
        return matrix, None, None
    return matrix.values, matrix.scales, matrix.zeros if isinstance(matrix, Int4Matrix) else None


def _operator(rows: Tensor, values: Tensor, scales: Tensor | None, zeros: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.genqueue.linear(rows.contiguous(), values, scales, zeros)
    return product


def _write_out(fields: Sequence[Tensor | None], numbers: Tensor) -> None:
    torch.ops.genqueue.write_out(*fields, numbers)


@torch.inference_mode()
def check(dtype: torch.dtype, matrix: Matrix) -> None:
    """Build the operators, and compare them with torch's linear on this very machine, for matrices of that form.

    Raises NotSupported where they differ, and what `library.load` raises.
    """
    load()
    generator = torch.Generator().manual_seed(0)
    uneven = 1024 + matrix.group if isinstance(matrix, Int4Matrix) else 1035
    for outputs, inputs in ((64, 4096), (33, uneven)):  # as vectors divide them, and as they do not
        weight = torch.randn((outputs, inputs), generator=generator)
        like = _like(weight, matrix)
        plain = like.float() if isinstance(like, Tensor) else to_float(like, torch.float32)
        _write_out(_fields(like), numbers := torch.empty_like(plain))
        require_agreement("a matrix written out", numbers, plain, _TOLERANCE[torch.float32])
        for count in (1, 6):
            rows = torch.randn((count, inputs), generator=generator).to(dtype)
            require_agreement(
                "the product of rows with a matrix",
                linear(rows, like),
                functional.linear(rows.float(), plain),
                _TOLERANCE[dtype],
            )


def _like(weight: Tensor, matrix: Matrix) -> Matrix:
    """A weight in the form of a matrix."""
    if isinstance(matrix, Tensor):
        return weight.to(matrix.dtype)
    if isinstance(matrix, Int8Matrix):
        return to_int8(weight)
    small = to_int4(weight, matrix.group, zeros=matrix.zeros is not None)
    return small._replace(scales=small.scales.to(matrix.scales.dtype))
