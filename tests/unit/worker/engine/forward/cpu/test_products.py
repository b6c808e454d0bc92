"""Our operator on a CPU against torch's linear of the weights written out; how it is built, and a worker without.

Forward passes that are made of it: ../../test_small_weights.py and ../test_static_path.py.
"""

import os
import platform
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.models import CPU, random_model
from worker.engine import EngineOptions
from worker.engine.errors import NotSupported
from worker.engine.forward.choice import prepare
from worker.engine.forward.cpu import library, products
from worker.engine.forward.matrices import Int4Matrix, Int8Matrix, Matrix, to_float, to_int4, to_int8
from worker.engine.forward.static_path import StaticPath
from worker.errors import ConfigError
from worker.progress import no_progress

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="it is compiled by g++")

FORMS = {
    "float32": lambda weight: weight,
    "bfloat16": lambda weight: weight.bfloat16(),
    "int8": to_int8,
    **{
        f"int4 in groups of {group}, {'with' if zeros else 'without'} zeros": (
            lambda weight, group=group, zeros=zeros: to_int4(weight, group, zeros=zeros)
        )
        for group in (32, 64, 128)
        for zeros in (True, False)
    },
}
SHAPES = ((1, 128), (7, 384), (64, 896), (33, 1152), (6, 4864), (130, 128))
"""Outputs and inputs: as streams and blocks divide them, and as they do not."""
ANY_SHAPES = ((5, 1), (4, 7), (9, 100), (18, 33))
"""For forms that have no groups."""


@pytest.fixture(scope="module", autouse=True)
def operator():
    library.load()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest):
    return FORMS[request.param]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def written_out(matrix: Matrix) -> torch.Tensor:
    return matrix.double() if isinstance(matrix, torch.Tensor) else to_float(matrix, torch.float32).double()


def matrices_of(form):
    like = form(random(1, 128))
    # Of one group, and of an odd number of them: vectors of words divide neither.
    others = ((5, like.group), (9, 9 * like.group)) if isinstance(like, Int4Matrix) else ANY_SHAPES
    return [form(random(*shape)) for shape in SHAPES + others]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 17])
def test_is_the_linear_of_the_weights_written_out(form, count):
    for matrix in matrices_of(form):
        whole = written_out(matrix)
        rows = random(count, whole.shape[1], seed=1) + 0.5
        found = products.linear(rows, matrix)
        assert (found.dtype, found.shape) == (torch.float32, (count, len(whole)))
        exact = functional.linear(rows.double(), whole)
        assert (found.double() - exact).abs().max() < 3e-6 * whole.shape[1] ** 0.5 * whole.abs().max()
        halves = rows.bfloat16()
        exact = functional.linear(halves.double(), whole)
        found = products.linear(halves, matrix)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("size", [1e-28, 1e28])
def test_rows_of_any_size(form, size):
    """Also where one number of a group is far larger than the others."""
    matrix, rows = form(random(12, 384)), random(2, 384, seed=1)
    rows[:, 5] *= 1000
    for some in (rows, rows[:1]):
        exact = functional.linear(some.double(), written_out(matrix))
        found = products.linear(some * size, matrix).double() / size
        assert (found - exact).abs().max() < 2e-6 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scales_of_groups_are_of_any_floating_dtype(dtype):
    matrix = to_int4(random(21, 384), 32, zeros=True)
    matrix = matrix._replace(scales=matrix.scales.to(dtype))
    for count in (1, 3):
        rows = random(count, 384, seed=1)
        exact = functional.linear(rows.double(), written_out(matrix))
        torch.testing.assert_close(products.linear(rows, matrix).double(), exact, rtol=1e-4, atol=1e-4)


def test_a_part_of_a_matrix(form):
    """Views of a joined one: they begin anywhere."""
    whole = form(random(24, 128))
    fields = [whole] if isinstance(whole, torch.Tensor) else whole
    cut = [None if field is None else field[5:16] for field in fields]
    part = cut[0] if isinstance(whole, torch.Tensor) else type(whole)(*cut)
    rows = random(3, 128, seed=1)
    for some in (rows, rows[:1]):
        torch.testing.assert_close(products.linear(some, part), products.linear(some, whole)[:, 5:16])


def test_what_is_no_number_stays_none(form):
    matrix = form(random(6, 128))
    for value in (torch.nan, torch.inf, -torch.inf):
        for count in (1, 2):
            rows = random(count, 128, seed=1)
            rows[0, 3] = value
            for some in (rows, rows.bfloat16()):
                found = products.linear(some, matrix)
                assert not found[0].isfinite().any()
                assert found[1:].isfinite().all()


def test_threads_and_other_rows_change_no_bit(form):
    matrix, rows = form(random(203, 256)), random(9, 256, seed=1)
    several, alone = products.linear(rows, matrix), products.linear(rows[:1], matrix)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(products.linear(rows, matrix), several)
        assert torch.equal(products.linear(rows[:1], matrix), alone)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(products.linear(rows[:6], matrix), several[:6])


def test_no_rows_at_all(form):
    """As where the logits of none are asked for, after a piece of a prompt."""
    matrix = form(random(7, 128))
    assert products.linear(random(0, 128), matrix).shape == (0, 7)
    assert products.Linear()(random(0, 128), matrix).shape == (0, 7)


def test_rows_of_any_shape(form):
    matrix, rows = form(random(12, 128)), random(2, 3, 128, seed=1)
    if isinstance(matrix, torch.Tensor):
        rows = rows.to(matrix.dtype)
    found = products.Linear()(rows, matrix)
    assert found.shape == (2, 3, 12)
    torch.testing.assert_close(found.view(6, 12), products.linear(rows.view(6, 128), matrix))
    turned = random(128, 3, seed=1).t()
    torch.testing.assert_close(products.linear(turned, matrix), products.linear(turned.contiguous(), matrix))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_rows_of_floats_are_torchs(dtype, monkeypatch):
    monkeypatch.setattr(products, "_multiplies_bfloat16", lambda: True)
    matrix, rows = random(12, 128).to(dtype), random(100, 128, seed=1).to(dtype)
    assert torch.equal(products.Linear()(rows, matrix), functional.linear(rows, matrix))


def test_many_rows_of_what_torch_has_no_product_of(form, monkeypatch):
    """The matrix is written out in pieces, of which the last is another."""
    monkeypatch.setattr(products, "_multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(products, "_PIECE", 5000)
    for matrix in matrices_of(form):
        whole = written_out(matrix).float()
        numbers = torch.empty_like(whole)
        torch.ops.genqueue.write_out(*products._fields(matrix), numbers)
        assert torch.equal(numbers, whole)
        for rows in (random(65, whole.shape[1], seed=1), random(65, whole.shape[1], seed=1).bfloat16()):
            if isinstance(matrix, torch.Tensor) and matrix.dtype != rows.dtype:
                continue
            found = products.Linear()(rows, matrix)
            assert (found.dtype, found.shape) == (rows.dtype, (65, len(whole)))
            exact = functional.linear(rows.double(), whole.double())
            torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-3)


def test_what_it_does_not_know_is_refused():
    matrix = random(4, 8)
    with pytest.raises(RuntimeError, match="rows are float32 or bfloat16"):
        products.linear(random(1, 8).half(), matrix)
    with pytest.raises(RuntimeError, match="weights are float32, bfloat16, int8 or int4"):
        products.linear(random(1, 8), matrix.half())
    with pytest.raises(RuntimeError, match="contiguous"):
        products.linear(random(1, 4), matrix.t())
    with pytest.raises(RuntimeError, match="as long as those of the matrix"):
        products.linear(random(1, 9), matrix)
    with pytest.raises(RuntimeError, match="scales of int8 are float32"):
        products.linear(random(1, 8), Int8Matrix(to_int8(matrix).values, matrix[:, 0].half()))
    for numbers in (random(4, 9), random(5, 8), random(8, 4).t(), matrix.double()):
        with pytest.raises(RuntimeError, match="written out into one of contiguous float32"):
            torch.ops.genqueue.write_out(matrix, None, None, numbers)


class TestCheck:
    def test_passes_here(self, form):
        products.check(torch.float32, form(random(4, 128)))
        products.check(torch.bfloat16, form(random(4, 128)))

    def test_notices_a_compiler_that_errs(self, monkeypatch):
        right = products._operator
        monkeypatch.setattr(products, "_operator", lambda rows, *fields: right(rows, *fields) * 1.001)
        with pytest.raises(NotSupported, match=r"the product of rows with a matrix is off by 0\.001"):
            products.check(torch.float32, to_int8(random(4, 128)))

    def test_notices_one_that_errs_as_it_writes_out(self, form, monkeypatch):
        right = products._write_out

        def off(fields: tuple[torch.Tensor | None, ...], numbers: torch.Tensor) -> None:
            right(fields, numbers)
            numbers[-1, -1] += 1

        monkeypatch.setattr(products, "_write_out", off)
        with pytest.raises(NotSupported, match="a matrix written out is off by"):
            products.check(torch.float32, form(random(4, 128)))

    def test_notices_one_that_errs_where_vectors_do_not_divide_a_row(self, form, monkeypatch):
        """Sixteen numbers, or sixteen words of eight weights, are one step of the widest processors."""
        right = products._operator
        matrix = form(random(4, 128))
        step = 128 if isinstance(matrix, Int4Matrix) else 16

        def cut_off(rows: torch.Tensor, *fields: torch.Tensor | None) -> torch.Tensor:
            rows = rows.clone()
            rows[:, rows.shape[1] // step * step :] = 0
            return right(rows, *fields)

        monkeypatch.setattr(products, "_operator", cut_off)
        divides_all = isinstance(matrix, Int4Matrix) and matrix.group == step
        with nullcontext() if divides_all else pytest.raises(NotSupported, match="is off by"):
            products.check(torch.float32, matrix)


class TestBuilding:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(library, "cache_dir", lambda: str(tmp_path))
        return tmp_path

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """Of the compiler, which makes an empty file of it."""
        calls = []

        def run(command: list[str], **_):
            calls.append(command)
            Path(command[command.index("-o") + 1]).touch()
            return subprocess.CompletedProcess(command, 0)

        library.get_compiler_version_info(library.get_cpp_compiler())  # by processes of their own, once
        monkeypatch.setattr(library.subprocess, "run", run)
        return calls

    def test_once(self, folder, calls):
        built = library._built()
        assert built == library._built()
        assert len(calls) == 1
        assert list((folder / "genqueue").iterdir()) == [built], "nothing half-made is left"

    def test_it_is_on_the_disk_before_it_has_its_name(self, folder, calls, monkeypatch):
        """Of what is cut off, torch can load a part, and the process ends by SIGBUS."""
        written: list[list[Path]] = []
        monkeypatch.setattr(
            library.os, "fsync", lambda _: written.append(list((folder / "genqueue").glob("*.so")))
        )
        library._built()
        assert written == [[]]

    def test_one_that_is_damaged_is_built_anew(self, folder, calls, monkeypatch):
        loaded: list[Path] = []

        def load_library(path: Path) -> None:
            loaded.append(path)
            if len(loaded) == 1:
                raise OSError("file too short")

        library._built()
        monkeypatch.setattr(library.torch.ops, "load_library", load_library)
        monkeypatch.setattr(library.torch.library, "register_fake", lambda _: lambda function: function)
        library.load.__wrapped__()
        assert loaded == [library._built()] * 2
        assert len(calls) == 2

    @pytest.mark.parametrize("what", ["source", "compiler", "torch", "processor"])
    def test_anew_where_anything_differs(self, what, folder, calls, monkeypatch, tmp_path):
        first = library._built()
        if what == "source":
            monkeypatch.setattr(library, "SOURCE", other := tmp_path / "other.cpp")
            other.write_text("// other")
        elif what == "compiler":
            monkeypatch.setattr(library, "get_compiler_version_info", lambda _: "other")
        elif what == "torch":
            monkeypatch.setattr(library.torch, "__version__", "other")
        else:
            monkeypatch.setattr(library, "_processor", lambda: "other")
        assert library._built() != first
        assert len(calls) == 2

    def test_two_at_the_same_time(self, folder, calls, monkeypatch):
        """The other is done while this one compiles."""
        compile_ = library._compile

        def late(compiler: str, to: Path) -> None:
            monkeypatch.setattr(library, "_compile", compile_)
            assert library._built().is_file()
            compile_(compiler, to)

        monkeypatch.setattr(library, "_compile", late)
        assert library._built().is_file()
        assert len(calls) == 2

    @pytest.mark.slow
    @pytest.mark.matrix
    @pytest.mark.skipif(platform.machine() != "x86_64", reason="the levels are those of x86-64")
    @pytest.mark.parametrize("level", ["x86-64", "x86-64-v3"])
    def test_for_older_processors(self, level, tmp_path):
        """What this one can do, they can; of what they cannot, nothing is used. In a process of its own: it is one
        operator."""
        program = f"""
import torch
from worker.engine.forward.cpu import library, products
from worker.engine.forward.matrices import to_int4, to_int8
library._FLAGS = tuple(flag.replace("native", {level!r}) for flag in library._FLAGS)
weight = torch.ones(1, 128)
forms = [weight, weight.bfloat16(), to_int8(weight)]
forms += [to_int4(weight, group, zeros=zeros) for group in (32, 64, 128) for zeros in (True, False)]
for form in forms:
    products.check(torch.float32, form)
print(library._built().name)
"""
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in (tmp_path / "genqueue").iterdir()] == [done.stdout.strip()]

    def test_what_the_compiler_says_is_passed_on(self, folder, monkeypatch):
        failed = subprocess.CompletedProcess([], 1, stderr="fatal error: no such file")
        library.get_compiler_version_info(library.get_cpp_compiler())
        monkeypatch.setattr(library.subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(RuntimeError, match="no such file"):
            library._built()
        assert not list((folder / "genqueue").iterdir())

    def test_is_in_the_package(self):
        """An installed worker compiles it as well."""
        data = Path("pyproject.toml").read_text()
        assert {path.suffix for path in library._sources()} == {".cpp", ".h"}
        assert all(f'"engine/forward/cpu/*{path.suffix}"' in data for path in library._sources())


class TestWithout:
    """A worker whose operator cannot be had runs as torch and Inductor have it, and says why."""

    @pytest.fixture
    def path(self, monkeypatch: pytest.MonkeyPatch) -> StaticPath:
        def load() -> None:
            raise RuntimeError("C++ compile error\n/t/linear.cpp:2: fatal error: it is broken")

        monkeypatch.setattr(products, "load", load)
        monkeypatch.setattr(StaticPath, "compile", lambda self, *, deterministic: None)
        return StaticPath(random_model(), 64, CPU, ranges=False)

    def test_it_is_said(self, path, caplog):
        before = path.read(torch.tensor([[1, 2, 3]]))
        path.truncate(0)
        why = prepare(path, EngineOptions(compile="always"), parameters=10**9, progress=no_progress)
        assert why == "not made of our kernels: RuntimeError: C++ compile error"
        assert "it is broken" in caplog.text
        assert torch.equal(path.read(torch.tensor([[1, 2, 3]])), before)

    def test_a_deterministic_one_is_refused(self, path):
        options = EngineOptions(compile="always", deterministic=True)
        with pytest.raises(ConfigError, match=r"not made of our kernels.*engine\.compile: never"):
            prepare(path, options, parameters=10**9, progress=no_progress)
