"""Weights that lie in int4 in their files, as GPTQ and AWQ write them, and what they are here.

Both pack eight values into an int32 and keep matrices as (in, out), with scales and zeros (groups, out).

    GPTQ    qweight (in / 8, out): the eight follow on each other down a column, the first in the lowest bits.
            qzeros (groups, out / 8): likewise along a row, each less one, and 15 for 0; as it is in `gptq_v2`.
            g_idx (in,): the group of each row of `in`. With act-order, groups are no runs: refused.
    AWQ     qweight (in, out / 8) and qzeros (groups, out / 8): the eight along a row, those of the places
            0 2 4 6 1 3 5 7 from the lowest bits up, zeros as they are.

Where a row's last group is cut short, it has a scale and a zero all the same.

Sources: AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py; AutoAWQ, awq/modules/linear/gemm.py.
"""

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..forward.matrices import GROUPS, MIDDLE, Int4Matrix, pack
from .weights_form import ADVICE, PackedFiles

_BITS = torch.arange(0, 32, 4, dtype=torch.int32)
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class PackedLinear(nn.Module):
    """What stands in place of nn.Linear while files are read: their tensors, by the names that they have there."""

    def __init__(self, linear: nn.Linear, files: PackedFiles, scales: torch.dtype) -> None:
        """scales: their dtype in the files."""
        super().__init__()
        self.in_features, self.out_features = inputs, outputs = linear.in_features, linear.out_features
        self.format, self.symmetric = files.format, files.symmetric
        self.group = inputs if files.group == -1 else files.group
        groups = -(-inputs // self.group)

        def tensor(name: str, *shape: int, dtype: torch.dtype = torch.int32) -> None:
            self.register_buffer(name, torch.empty(shape, dtype=dtype))

        tensor("qweight", *((inputs, outputs // 8) if self.format == "awq" else (inputs // 8, outputs)))
        tensor("qzeros", groups, outputs // 8)
        tensor("scales", groups, outputs, dtype=scales)
        if self.format != "awq":
            tensor("g_idx", inputs)
        self.bias = linear.bias

    def read(self, device: torch.device) -> Int4Matrix:
        """As it is held here, on `device`.  Raises ConfigError for what has no such form."""
        self._check_order()
        group = self.group_here
        get = self.get_buffer
        if self.format == "awq":
            values = _in_order(_unpacked(get("qweight").to(device), 1))
            zeros = _in_order(_unpacked(get("qzeros").to(device), 1))
        else:
            values = _unpacked(get("qweight").to(device), 0)
            zeros = _unpacked(get("qzeros").to(device), 1)
            zeros = (zeros + 1) & 15 if self.format == "gptq" else zeros
        repeats, groups = self.group // group, self.in_features // group
        scales, zeros = (
            tensor.t().repeat_interleave(repeats, 1)[:, :groups].contiguous()
            for tensor in (get("scales").to(device), zeros)
        )
        grouped = values.t().unflatten(1, (-1, group)).contiguous()
        return Int4Matrix(pack(grouped), scales, None if bool((zeros == MIDDLE).all()) else zeros)

    @property
    def group_here(self) -> int:
        """Columns of a group here, which a group of the files may be several of.  Raises ConfigError."""
        for group in reversed(GROUPS):
            if self.group % group == 0 and self.in_features % group == 0:
                return group
        raise ConfigError(
            f"its weights are quantized in groups of {self.group}, of {self.in_features} columns, and multiples "
            f"of {GROUPS[0]} are read. {ADVICE}"
        )

    @property
    def planned_bytes(self) -> int:
        """What `read` gives will take.  Raises ConfigError as it does, but for act-order."""
        groups = self.in_features // self.group_here
        of_a_group = self.get_buffer("scales").itemsize + (not self.symmetric)
        return self.out_features * (self.in_features // 2 + groups * of_a_group)

    def _check_order(self) -> None:
        if self.format == "awq":
            return
        given = self.get_buffer("g_idx").long()
        if not torch.equal(given, torch.arange(len(given)) // self.group):
            raise ConfigError(
                "its weights are quantized by GPTQ with act-order (desc_act, a g_idx that is in no order), which "
                "is not read here. Use a model that was quantized without it, or the model's own repository with "
                "engine.weights int4"
            )


def _unpacked(words: Tensor, dim: int) -> Tensor:
    """Eight bytes for each int32, along `dim`, from the lowest bits up."""
    bits = _BITS.to(words.device)
    shape = [-1, 1] if dim == 0 else [-1]
    values = (words.unsqueeze(dim + 1) >> bits.view(shape)) & 15
    return values.to(torch.uint8).flatten(dim, dim + 1)


def _in_order(values: Tensor) -> Tensor:
    """From the places that AWQ keeps them in to their own.  values: (n, out)."""
    places = torch.tensor(_AWQ_ORDER, device=values.device).argsort()
    ordered: Tensor = values.unflatten(1, (-1, 8))[:, :, places]
    return ordered.flatten(1)
