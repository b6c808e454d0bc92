"""What compiling a step takes of this machine, and what is missing, from the error that a compiler has ended with.

On a CPU, Inductor compiles C++. On a GPU, Triton compiles a module of Python's in C before its first kernel.
Source: triton, runtime/build.py; pytorch, torch/_inductor/exc.py.
"""

import subprocess
import sysconfig
from pathlib import Path

from ..faults import chain

PYTHON_HEADERS = "Python's headers are missing (install python3-dev)"
NOEXEC = (
    "code is kept in a folder that it may not run from, mounted noexec (set TORCHINDUCTOR_CACHE_DIR to another)"
)

_SAID = (
    ("Python.h", PYTHON_HEADERS),
    ("No working C++ compiler", "there is no C++ compiler (install g++)"),
    ("Failed to find C compiler", "there is no C compiler (install gcc)"),
    ("Cannot find a working triton", "Triton is missing (pip install triton)"),
    ("failed to map segment", NOEXEC),
)
"""What an error says where something is missing, and what that is."""


def what_is_missing(error: BaseException) -> str | None:
    """In words, with the package that has it; None where the error is about something else."""
    links = list(chain(error))
    said = "\n".join(map(str, links))
    if known := next((missing for words, missing in _SAID if words in said), None):
        return known
    if any(isinstance(link, subprocess.CalledProcessError) for link in links):
        # Triton keeps the compiler's words to itself; they stand on stderr.
        return PYTHON_HEADERS if not _has_python_headers() else "the C compiler fails (its messages stand above)"
    return None


def _has_python_headers() -> bool:
    return (Path(sysconfig.get_config_var("INCLUDEPY") or "") / "Python.h").is_file()
