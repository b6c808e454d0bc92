"""What a compiler lacks is named, with its package. The errors are those of Inductor and Triton."""

import subprocess
import sysconfig

import pytest
import torch

from tests.models import CPU, random_model
from worker.engine import EngineOptions
from worker.engine.forward.choice import prepare
from worker.engine.forward.static_path import StaticPath
from worker.engine.forward.toolchain import PYTHON_HEADERS, what_is_missing
from worker.progress import no_progress

GCC_FAILED = subprocess.CalledProcessError(1, ["/usr/bin/gcc", "/tmp/x/cuda_utils.c", "-O3", "-shared"])
NO_GCC = RuntimeError(
    "Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
)


def inductor(cause: Exception) -> Exception:
    """As the compiler passes it on."""
    error = RuntimeError(f"{type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


@pytest.fixture
def headers(tmp_path, monkeypatch):
    """Say whether Python's headers are there."""
    get = sysconfig.get_config_var

    def set_up(*, there: bool) -> None:
        if there:
            (tmp_path / "Python.h").touch()
        monkeypatch.setattr(
            sysconfig, "get_config_var", lambda name: str(tmp_path) if name == "INCLUDEPY" else get(name)
        )

    return set_up


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NO_GCC, "no C compiler (install gcc)"),
        (
            RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')"),
            "install g++",
        ),
        (
            RuntimeError("C++ compile error\n/t/x.cpp:2: fatal error: Python.h: No such file"),
            "install python3-dev",
        ),
        (
            inductor(OSError("/t/linear.so: failed to map segment from shared object")),
            "TORCHINDUCTOR_CACHE_DIR",
        ),
        (RuntimeError("Cannot find a working triton installation. Either the package …"), "pip install triton"),
    ],
)
def test_what_is_missing(error, said):
    assert said in what_is_missing(error)
    assert said in what_is_missing(inductor(error))


def test_gcc_that_fails_for_the_lack_of_headers(headers):
    """Triton raises its exit code alone."""
    headers(there=False)
    assert what_is_missing(inductor(GCC_FAILED)) == PYTHON_HEADERS


def test_gcc_that_fails_for_another_reason(headers):
    headers(there=True)
    assert "the C compiler fails" in what_is_missing(inductor(GCC_FAILED))


def test_any_other_error():
    assert what_is_missing(ValueError("no such shape")) is None


@pytest.mark.parametrize("compile_", ["always", "auto"])
def test_the_step_runs_uncompiled_and_the_reason_is_one_sentence(compile_, monkeypatch, caplog):
    path = StaticPath(random_model(), 64, CPU, ranges=False)
    eager = path.read(torch.tensor([[1, 2, 3]])), path.decode(torch.tensor([[4]]))
    path.truncate(0)

    def compile_step(self: StaticPath, *, deterministic: bool) -> None:
        raise inductor(NO_GCC)

    monkeypatch.setattr(StaticPath, "compile", compile_step)
    why = prepare(path, EngineOptions(compile=compile_), parameters=10**9, progress=no_progress)
    assert why == "not compiled: there is no C compiler (install gcc)"
    assert "Traceback" not in caplog.text
    assert not path.compiled
    for expected, ids in zip(eager, ([[1, 2, 3]], [[4]]), strict=True):
        torch.testing.assert_close(path.read(torch.tensor(ids)), expected)
