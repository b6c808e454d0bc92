"""The linear of a single row on a CPU, which is what a decode step spends its time on: every weight is read once.

For compiled code: without a compiler, torch's own linear is faster. A GPU has a kernel in its place, see `gpu`.
Small weights become numbers in the registers of the loop that multiplies them.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .matrices import Int4Matrix, Int8Matrix, Matrix

_LONGEST_SUM = 4096


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
    low, high = row.view(cuts, -1, 2, half).float().unbind(2)  # (cuts, groups of a cut, half)
    streams = _streams(matrix.values)
    # What is not cut would be: values, scales, zeros of the same outputs.
    fields = (matrix.values, matrix.scales, *([] if matrix.zeros is None else [matrix.zeros]))
    sums = []
    for values, scales, *zeros in zip(*(field.chunk(streams) for field in fields), strict=True):
        values = values.view(-1, cuts, groups // cuts, half)
        scales = scales.view(-1, cuts, groups // cuts, 1).float()
        zero = zeros[0].view(-1, cuts, groups // cuts, 1).float() if zeros else 8.0
        products = ((values & 15).float() - zero) * low + ((values >> 4).float() - zero) * high
        sums.append((products * scales).sum((2, 3)))
    return torch.cat(sums).sum(-1)[None].to(row.dtype)


def _cuts(length: int, divisor: int) -> int:
    """Into how many parts a sum over `length` numbers is cut; a number that divides `divisor`."""
    cuts = 1
    while length > _LONGEST_SUM * cuts or divisor % cuts:
        cuts += 1
    return cuts


def _streams(values: Tensor) -> int:
    """A core that reads four places at once keeps more of the memory busy, and loads the row once for all four."""
    return next(count for count in (4, 2, 1) if len(values) % count == 0)
