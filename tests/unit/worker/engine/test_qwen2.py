"""The matrix-vector product that is compiled, against the linear that it stands for.

The forward pass as a whole is held against transformers in test_engine.py, test_static_path.py and their matrix.
"""

import pytest
import torch
from torch.nn import functional

from worker.engine.qwen2 import matrix_vector


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
