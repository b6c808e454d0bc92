"""Small forms of a matrix: rounding by their definition, and products that are the written out weights'."""

import pytest
import torch
from torch.nn import functional

from worker.engine.forward.matrices import (
    GROUPS,
    Int8Matrix,
    bytes_of,
    joined,
    linear,
    pack,
    part,
    rows_of,
    to_float,
    to_int4,
    to_int8,
    unpack,
)
from worker.engine.forward.matrix_vector import matrix_vector

FORMS = {"int8": to_int8} | {
    f"int4 in groups of {group}, {'with' if zeros else 'without'} zeros": (
        lambda weight, group=group, zeros=zeros: to_int4(weight, group, zeros=zeros)
    )
    for group in GROUPS
    for zeros in (True, False)
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest):
    return FORMS[request.param]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_int8_is_the_nearest_of_a_rows_steps():
    weight = random(7, 96)
    weight[3] = 0
    matrix = to_int8(weight)
    steps = weight.abs().amax(1, keepdim=True) / 127
    assert ((to_float(matrix, torch.float32) - weight).abs() <= steps * 0.5001).all()
    others = [0, 1, 2, 4, 5, 6]
    assert matrix.values[others].abs().amax(1).eq(127).all()
    assert to_float(matrix, torch.float32)[3].eq(0).all()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("zeros", [True, False])
def test_int4_is_the_nearest_of_a_groups_steps(group, zeros):
    weight = random(5, 2 * group)
    weight[1, :group] = 0
    weight[2, :group] = weight[2, :group].abs() + 1  # all on one side of zero
    matrix = to_int4(weight, group, zeros=zeros)
    assert (matrix.shape, matrix.group) == ((5, 2 * group), group)
    found = to_float(matrix, torch.float32)
    steps = matrix.scales.float().repeat_interleave(group, 1)
    middles = 8 if matrix.zeros is None else matrix.zeros.float().repeat_interleave(group, 1)
    ends = -middles * steps, (15 - middles) * steps
    nearest = weight.clamp(torch.minimum(*ends), torch.maximum(*ends))
    assert ((found - nearest).abs() <= steps.abs() * 0.501).all()
    assert (weight - nearest).abs().le(steps.abs() * 0.6).float().mean() > 0.9, "much is cut off"
    assert found[1, :group].eq(0).all()


def test_by_hand():
    """-3 and 4.5 in 15 steps of 0.5: the zero is 6."""
    weight = torch.zeros(1, 32)
    weight[0, :4] = torch.tensor([-3.0, 4.5, 0.26, 0.24])
    matrix = to_int4(weight, 32, zeros=True)
    assert matrix.zeros is not None
    assert (matrix.scales.item(), matrix.zeros.item()) == (0.5, 6)
    assert unpack(matrix.values)[0, 0, :5].tolist() == [0, 15, 7, 6, 6]
    assert matrix.values[0, 0, 0].item() == 0 + 16 * 6, "its low half is column 0, its high half column 16"
    assert to_float(matrix, torch.float32)[0, :5].tolist() == [-3.0, 4.5, 0.5, 0.0, 0.0]


def test_what_is_packed_comes_out_again():
    values = torch.randint(0, 16, (3, 4, 64), dtype=torch.uint8)
    assert torch.equal(unpack(pack(values)), values)


def test_products_are_those_of_the_written_out_weights(form):
    matrix = form(random(12, 384))
    rows = random(3, 384, seed=1)
    expected = functional.linear(rows.double(), to_float(matrix, torch.float32).double())
    assert torch.allclose(linear(rows, matrix).double(), expected, atol=1e-4)
    assert torch.allclose(matrix_vector(rows[:1], matrix).double(), expected[:1], atol=1e-4)


def test_rows_that_are_cut_for_the_compiler(form):
    matrix = form(random(4, 16_384))
    row = random(1, 16_384, seed=1)
    expected = functional.linear(row.double(), to_float(matrix, torch.float32).double())
    assert torch.allclose(matrix_vector(row, matrix).double(), expected, atol=2e-3)


def test_a_matrix_that_is_written_out_piece_by_piece(form, monkeypatch: pytest.MonkeyPatch):
    matrix, rows = form(random(50, 128)), random(2, 128, seed=1)
    whole = linear(rows, matrix)
    monkeypatch.setattr("worker.engine.forward.matrices._PIECE", 128 * 7)
    assert torch.allclose(linear(rows, matrix), whole, atol=1e-5)


def test_joined_and_parted(form):
    some, others = form(random(6, 128)), form(random(10, 128, seed=1))
    whole = joined([some, others])
    for start, matrix in ((0, some), (6, others)):
        found = part(whole, start, start + matrix.shape[0])
        assert torch.equal(to_float(found, torch.float32), to_float(matrix, torch.float32))
    assert bytes_of(whole) == bytes_of(some) + bytes_of(others)


def test_groups_with_zeros_are_joined_with_groups_without():
    some, others = (to_int4(random(4, 64, seed=seed), 32, zeros=zeros) for seed, zeros in ((0, True), (1, False)))
    whole = to_float(joined([some, others]), torch.float32)
    assert torch.equal(whole, torch.cat([to_float(matrix, torch.float32) for matrix in (some, others)]))


def test_an_embedding():
    weight = random(20, 96)
    ids = torch.tensor([[3, 3, 19], [0, 7, 1]])
    matrix = to_int8(weight)
    assert isinstance(matrix, Int8Matrix)
    assert torch.equal(rows_of(matrix, ids, torch.float32), to_float(matrix, torch.float32)[ids])
    assert torch.equal(rows_of(weight, ids, torch.float32), weight[ids])


@pytest.mark.parametrize(("form", "bits"), [("int8", 8), ("int4 in groups of 32, with zeros", 4.75)])
def test_bytes(form, bits):
    size = bytes_of(FORMS[form](random(64, 4096)))
    assert size * 8 / (64 * 4096) == pytest.approx(bits, abs=0.02)
