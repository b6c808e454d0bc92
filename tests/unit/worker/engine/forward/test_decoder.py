"""The matrix-vector product that is compiled, against the linear that it stands for; attention of a single row.

The whole forward pass is held against transformers in ../test_engine.py, test_static_path.py and their matrix.
"""

import pytest
import torch
from torch.nn import functional

from worker.engine.forward.decoder import View, attend
from worker.engine.forward.matrix_vector import matrix_vector


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", [16, 896, 4096, 4864, 18944])
@pytest.mark.parametrize("outputs", [1, 6, 7, 64])
def test_is_the_linear_of_one_row(outputs, inputs, dtype):
    """Any number of rows, whether it can be read in several streams or not, and rows that are cut."""
    generator = torch.Generator().manual_seed(outputs * inputs)
    row = torch.randn(1, inputs, generator=generator).to(dtype)
    matrix = torch.randn(outputs, inputs, generator=generator).to(dtype)
    expected = functional.linear(row.double(), matrix.double())
    ours = matrix_vector(row, matrix)
    assert (ours.shape, ours.dtype) == ((1, outputs), dtype)
    tolerance = inputs**0.5 * torch.finfo(dtype).eps * 4
    assert (ours.double() - expected).abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_behind_a_mask_are_not_rounded(dtype):
    """Real models have keys with a large common part: their scores are in the hundreds and differ by little."""
    generator = torch.Generator().manual_seed(0)
    heads, group, length, visible, head_dim = 2, 7, 40, 64, 64
    keys, values = torch.randn(2, heads, visible, head_dim, generator=generator).unbind()
    keys = keys / 8 + 20
    query = torch.randn(1, heads * group, head_dim, generator=generator) / 8 + 1
    query, keys, values = query.to(dtype), keys.to(dtype), values.to(dtype)
    scale = head_dim**-0.5
    mask = torch.zeros(visible)
    mask[length:] = -torch.inf

    masked = attend(query, keys, values, View(visible, None, mask), scale)
    rows = query.view(heads, group, head_dim).double()
    scores = rows @ keys[:, :length].double().transpose(1, 2) / head_dim**0.5
    expected = (scores.softmax(-1) @ values[:, :length].double()).view(1, -1)
    assert scores.abs().min() > 100
    assert (masked.double() - expected).abs().max() < 0.02
    torch.testing.assert_close(
        masked, attend(query, keys, values, View(length, None, None), scale), atol=0.02, rtol=0
    )
