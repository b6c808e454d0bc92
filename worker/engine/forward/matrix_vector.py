"""The linear of a single row, which is what a decode step spends its time on: every weight is read once.

On a CPU a sum that a compiler spreads over all cores, on a GPU a small kernel. Both are for compiled code; without
a compiler, torch's own linear is faster.
"""

import torch
from torch import Tensor

_LONGEST_SUM = 4096


def matrix_vector(row: Tensor, matrix: Tensor) -> Tensor:
    """As sums that a compiler spreads over all cores: (1, in), (out, in) -> (1, out). Sums are in float32."""
    # Inductor sums rows above 4096 in a compensated loop that is half as fast: such rows are cut.
    cuts = 1
    while matrix.shape[1] > _LONGEST_SUM * cuts or matrix.shape[1] % cuts:
        cuts += 1
    # A core that reads four places at once keeps more of the memory busy, and loads the row once for all four.
    streams = next(count for count in (4, 2, 1) if len(matrix) % count == 0)
    cut_row = row.view(1, cuts, -1).float()
    sums = [(part.view(len(part), cuts, -1).float() * cut_row).sum(-1) for part in matrix.chunk(streams)]
    return torch.cat(sums).sum(-1)[None].to(row.dtype)
