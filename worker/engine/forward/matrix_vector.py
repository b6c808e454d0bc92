"""The linear of a single row on a CPU, which is what a decode step spends its time on: every weight is read once.

For compiled code, where our operator cannot be had (see `cpu`), as with rows of float16. Without a compiler,
torch's own linear is faster. A GPU has a kernel in its place, see `gpu`.
Small weights become numbers in the registers of the loop that multiplies them.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .matrices import MIDDLE, Int4Matrix, Int8Matrix, Matrix

_LONGEST_SUM = 4096
_VECTOR = 16


def matrix_vector(row: Tensor, matrix: Matrix) -> Tensor:
    """As sums that a compiler spreads over all cores: (1, in), (out, in) -> (1, out). Sums are in float32."""
    if isinstance(matrix, Int4Matrix):
        return _of_int4(row, matrix)
    values = matrix.values if isinstance(matrix, Int8Matrix) else matrix
    # Inductor sums rows above 4096 in a compensated loop that is half as fast: such rows are cut.
    cuts = _cuts(values.shape[1], values.shape[1])
    cut_row = row.view(1, cuts, -1).float()
    sums = [(part.view(len(part), cuts, -1).float() * cut_row).sum(-1) for part in values.chunk(_streams(values))]
    total = torch.cat(sums).sum(-1)
    if isinstance(matrix, Int8Matrix):
        total = total * matrix.scales
    return total[None].to(row.dtype)


def matrix_vector_of_small(row: Tensor, matrix: Matrix) -> Tensor:
    """As `matrix_vector`, but torch's own linear where the matrix is not small."""
    return functional.linear(row, matrix) if isinstance(matrix, Tensor) else matrix_vector(row, matrix)


def _of_int4(row: Tensor, matrix: Int4Matrix) -> Tensor:
    outputs, groups, half = matrix.values.shape
    cuts = _cuts(groups * half, groups)
    # Sixteen values of one group stand innermost, whatever its size: a vector of them has one scale.
    low, high = row.view(cuts, groups // cuts, 2, -1, _VECTOR).float().unbind(2)
    values = matrix.values.view(outputs, cuts, groups // cuts, -1, _VECTOR).to(torch.int32)
    scales = matrix.scales.float()
    products = (values & 15).float() * low + (values >> 4).float() * high
    sums = (products * scales.view(outputs, cuts, -1, 1, 1)).sum((2, 3, 4)).sum(-1)
    # Zeros are taken off group by group, not value by value.
    of_groups = row.view(groups, -1).float().sum(-1)
    zeros = MIDDLE if matrix.zeros is None else matrix.zeros.float()
    return (sums - (scales * zeros * of_groups).sum(-1))[None].to(row.dtype)


def _cuts(length: int, divisor: int) -> int:
    """Into how many parts a sum over `length` numbers is cut; a number that divides `divisor`."""
    cuts = 1
    while length > _LONGEST_SUM * cuts or divisor % cuts:
        cuts += 1
    return cuts


def _streams(values: Tensor) -> int:
    """A core that reads four places at once keeps more of the memory busy, and loads the row once for all four."""
    return next(count for count in (4, 2, 1) if len(values) % count == 0)
