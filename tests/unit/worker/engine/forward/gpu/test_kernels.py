"""The kernels of a GPU: on one, or on a CPU by Triton's interpreter, for which TRITON_INTERPRET=1 has to be set.

`make test-cuda` does that. bfloat16 is tried on a GPU alone: the interpreter's products of it are wrong.
"""

import importlib
import os

import pytest
import torch
from torch.nn import functional

from worker.engine.errors import NotSupported
from worker.engine.forward.matrices import linear, to_float, to_int4, to_int8

NEEDED = "neither a GPU with Triton nor its interpreter (make test-cuda)"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason=NEEDED)
attention = pytest.importorskip("worker.engine.forward.gpu.attention", reason=NEEDED, exc_type=ImportError)
products = importlib.import_module("worker.engine.forward.gpu.matrix_vector")
small_products = importlib.import_module("worker.engine.forward.gpu.small_matrix_vector")
few_products = importlib.import_module("worker.engine.forward.gpu.small_matrix_rows")
written_out = importlib.import_module("worker.engine.forward.gpu.written_out")

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TOLERANCE = {torch.float32: 4e-6, torch.float16: 0.004, torch.bfloat16: 0.03}
"""A GPU's exponential is good to a few of float32's last bits."""
SHORT_DTYPES = [torch.float16, *([] if INTERPRETED else [torch.bfloat16])]
DTYPES = [torch.float32, *SHORT_DTYPES]


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 16), (7, 512), (33, 1000), (64, 1536)])
def test_is_the_linear_of_one_row(outputs, inputs, dtype):
    """Also of a part of a larger matrix, and of sizes that no tile divides."""
    row = random(1, inputs, dtype=dtype)
    matrix = random(outputs, inputs + 8, dtype=dtype)[:, :inputs]
    expected = functional.linear(row.double(), matrix.double())
    ours = products.matrix_vector(row, matrix)
    assert (ours.shape, ours.dtype) == ((1, outputs), dtype)
    assert (ours.double() - expected).abs().max() < inputs**0.5 * torch.finfo(dtype).eps * 4


SMALL = {
    "int8": to_int8,
    "int4 in groups of 32, with zeros": lambda weight: to_int4(weight, 32, zeros=True),
    "int4 in groups of 64": lambda weight: to_int4(weight, 64, zeros=False),
    "int4 in groups of 128, with zeros": lambda weight: to_int4(weight, 128, zeros=True),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 128), (7, 896), (6, 2304)])
@pytest.mark.parametrize("form", SMALL)
def test_a_small_matrix_is_what_its_weights_are(form, outputs, inputs, dtype):
    matrix = SMALL[form](random(outputs, inputs, dtype=torch.float32))
    row = random(1, inputs, dtype=dtype)
    expected = functional.linear(row.double(), to_float(matrix, torch.float32).double())
    ours = small_products.matrix_vector(row, matrix)
    assert (ours.shape, ours.dtype) == ((1, outputs), dtype)
    allowed = torch.finfo(dtype).eps * (8 * inputs**0.5 + expected.abs())  # and the last bit of what comes out
    assert ((ours.double() - expected).abs() < allowed).all()


@pytest.mark.parametrize("dtype", SHORT_DTYPES)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(2, 1, 128), (8, 23, 896), (13, 16, 2304), (16, 33, 384)])
@pytest.mark.parametrize("form", SMALL)
def test_a_small_matrix_is_what_its_weights_are_for_a_few_rows(form, rows, outputs, inputs, dtype):
    """Rows of very different sizes too: a value is a tiny number, and what it multiplies is made larger."""
    matrix = SMALL[form](random(outputs, inputs, dtype=torch.float32))
    sizes = torch.logspace(-3, 1, rows, device=DEVICE).to(dtype)
    few = random(rows, inputs, dtype=dtype) * sizes[:, None]
    assert few_products.takes(few, matrix)
    expected = functional.linear(few.double(), to_float(matrix, torch.float32).double())
    ours = few_products.linear_of_few(few, matrix)
    assert (ours.shape, ours.dtype) == ((rows, outputs), dtype)
    allowed = torch.finfo(dtype).eps * (8 * inputs**0.5 * sizes.double()[:, None] + expected.abs())
    assert ((ours.double() - expected).abs() < allowed).all()


def test_what_no_kernel_takes_is_multiplied_by_torch():
    matrix = to_int8(random(3, 130, dtype=torch.float32))  # columns that are no words
    for rows in (random(5, 130, dtype=torch.float16), random(17, 130, dtype=torch.float16)):
        assert not few_products.takes(rows, matrix)
        assert few_products.linear_of_few(rows, matrix).equal(linear(rows, matrix))
    weight = random(3, 130, dtype=torch.float16)
    assert few_products.linear_of_few(rows, weight).equal(functional.linear(rows, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 128), (5, 2304)])
@pytest.mark.parametrize("form", SMALL)
def test_what_is_written_out_is_the_weights_to_the_last_bit(form, outputs, inputs, dtype):
    matrix = SMALL[form](random(outputs, inputs, dtype=torch.float32))
    numbers = torch.full((outputs, inputs), torch.nan, dtype=dtype, device=DEVICE)
    written_out.write_out(matrix, numbers)
    assert numbers.equal(to_float(matrix, dtype))


@pytest.mark.parametrize("form", SMALL)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_rows_of_any_number_are_multiplied_piece_by_piece(rows, form, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(written_out, "_PIECE", 3 * 256 + 1)  # three rows, and seven are not divided by them
    product = written_out.Linear(DEVICE, torch.float16)
    matrix = SMALL[form](random(7, 256, dtype=torch.float32))
    many = random(rows, 256, dtype=torch.float16)
    for _ in range(2):
        found = product(many, matrix)
        assert (found.shape, found.dtype) == ((rows, 7), torch.float16)
        assert (found.double() - linear(many.double(), matrix)).abs().max() < 0.1
    weight = random(7, 256, dtype=torch.float16)
    assert product(many, weight).equal(functional.linear(many, weight))


@pytest.mark.parametrize("form", SMALL)
def test_a_card_that_multiplies_a_few_rows_wrongly_is_noticed(form, monkeypatch: pytest.MonkeyPatch):
    matrix = SMALL[form](random(1, 128, dtype=torch.float32))
    few_products.check(DEVICE, torch.float16, matrix)
    right = few_products.few_rows
    monkeypatch.setattr(few_products, "few_rows", lambda *args: right(*args) * 1.05)
    with pytest.raises(NotSupported, match=r"rows with a small matrix is off by 0\.05 here"):
        few_products.check(DEVICE, torch.float16, matrix)


@pytest.mark.parametrize("form", SMALL)
def test_a_card_that_multiplies_small_matrices_wrongly_is_noticed(form, monkeypatch: pytest.MonkeyPatch):
    matrix = SMALL[form](random(1, 128, dtype=torch.float32))
    small_products.check(DEVICE, torch.float32, matrix)
    right = small_products.matrix_vector
    monkeypatch.setattr(small_products, "matrix_vector", lambda *args: right(*args) * 1.05)
    with pytest.raises(NotSupported, match=r"a row with a small matrix is off by 0\.05 here"):
        small_products.check(DEVICE, torch.float32, matrix)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[1], [130], [1, 33, 64, 512]], ids=str)
@pytest.mark.parametrize("heads", [(7, 1, 32), (4, 4, 80), (6, 2, 64), (40, 2, 16)], ids=str)
def test_each_row_attends_to_what_it_sees(heads, lengths, dtype):
    """Query heads that share keys or do not, more than 16 that do, head sizes that are no power of two."""
    query_heads, kv_heads, head_dim = heads
    # The queries are a part of what one product gave, as in the decoder.
    query = random(len(lengths), query_heads + 2 * kv_heads, head_dim, dtype=dtype)[:, :query_heads]
    keys, values = random(2, kv_heads, 512, head_dim, dtype=dtype).unbind()
    used = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)

    ours = attention.attend(query, keys, values, used, 0.3)
    assert (ours.shape, ours.dtype) == ((len(lengths), query_heads * head_dim), dtype)
    for found, row, length in zip(ours, query, lengths, strict=True):
        expected = functional.scaled_dot_product_attention(
            row.reshape(1, kv_heads, -1, head_dim).double(),
            keys[None, :, :length].double(),
            values[None, :, :length].double(),
            scale=0.3,
        ).flatten()
        assert (found.double() - expected).abs().max() < TOLERANCE[dtype]


def test_what_lies_behind_the_end_is_not_read():
    query = torch.ones(1, 2, 16, device=DEVICE)
    keys, values = torch.full((2, 1, 64, 16), torch.nan, device=DEVICE).unbind()
    keys[:, :40], values[:, :40] = 1.0, 2.0
    attended = attention.attend(query, keys, values, torch.tensor([40], dtype=torch.int32, device=DEVICE), 1.0)
    assert attended.eq(2).all()


def test_a_card_that_attends_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch):
    attention.check(DEVICE, torch.float32, 4, 2, 16)
    right = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *args: right(*args) * 1.05)
    with pytest.raises(NotSupported, match=r"attention to 1 tokens is off by 0\.05 here"):
        attention.check(DEVICE, torch.float32, 4, 2, 16)


def test_a_card_that_multiplies_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch):
    products.check(DEVICE, torch.float32)
    right = products.matrix_vector
    monkeypatch.setattr(products, "matrix_vector", lambda *args: right(*args) * float("nan"))
    with pytest.raises(NotSupported, match="the product of a row with a matrix is off by nan"):
        products.check(DEVICE, torch.float32)
