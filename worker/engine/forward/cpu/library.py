"""The operator of `linear.cpp`, compiled for this processor by torch.compile's compiler, and kept beside its code.

A file is named by all that it is made of, and is there whole or not at all: processes that compile it at the same
time do so twice, and any of them may be ended half-way.
"""

import hashlib
import os
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor.cpp_builder import get_compiler_version_info, get_cpp_compiler
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_name("linear.cpp")
_TARGET = "0x020b000000000000"
"""The oldest torch that we run with, 2.11: the stable interface of its headers is what is compiled against."""
_FLAGS = (
    *("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno"),
    *("-shared", "-fPIC", "-w", f"-DTORCH_TARGET_VERSION={_TARGET}"),
)


@cache
def load() -> None:
    """Register the operator, `torch.ops.genqueue.linear`; once in a process.

    Raises RuntimeError where there is no compiler, or where it fails, and OSError where nothing can be kept.
    """
    library = _built()
    try:
        torch.ops.load_library(library)
    except OSError:  # it is damaged, and would be in the way at each start
        library.unlink(missing_ok=True)
        torch.ops.load_library(_built())
    torch.library.register_fake("genqueue::linear")(_shape_of_linear)


def _shape_of_linear(rows: Tensor, values: Tensor, scales: Tensor | None, zeros: Tensor | None) -> Tensor:  # noqa: ARG001
    return rows.new_empty((rows.shape[0], values.shape[0]))


def _built() -> Path:
    """Where it is; built, where it is not."""
    compiler = get_cpp_compiler()
    made_of = [
        *(path.read_text() for path in _sources()),
        *_FLAGS,
        get_compiler_version_info(compiler),
        torch.__version__,
        _processor(),
    ]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:32]
    folder = Path(cache_dir()) / "genqueue"
    library = folder / f"linear-{name}.so"
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own:
            made = Path(own) / "linear.so"
            _compile(compiler, made)
            with made.open("rb") as file:
                os.fsync(file.fileno())  # else a power failure may leave the name, and not what it stands for
            made.replace(library)
    return library


def _sources() -> list[Path]:
    return [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]


def _compile(compiler: str, to: Path) -> None:
    folders = [f"-I{folder}" for folder in cpp_extension.include_paths()]
    libraries = [f"-L{folder}" for folder in cpp_extension.library_paths()]
    command = [compiler, *_FLAGS, *folders, str(SOURCE), "-o", str(to), *libraries, "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"C++ compile error\n{done.stderr or done.stdout}")


def _processor() -> str:
    """What it can do: a folder of kept code may be shared by machines, or outlive one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(told)}))
