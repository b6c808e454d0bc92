"""What the stand-in has seen: kernels, violations of a capture, memory, and which devices were touched."""

import ctypes
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch  # noqa: F401 - loads the library, which is then found by its name


@dataclass(frozen=True, slots=True)
class Seen:
    """Kernels by name."""

    launched: Counter[str]
    """Since the last `forget`. The launch of a graph is one, under the name of the graph."""
    graphs: dict[str, Counter[str]]
    """Of each graph that was ever captured, what is in it."""
    violations: list[str]
    """What a capture does not allow, and was done in one."""


@cache
def library() -> ctypes.CDLL | None:
    """The stand-in, if it is what this process has in place of CUDA."""
    try:
        found = ctypes.CDLL("libcudart.so.13")
    except OSError:
        return None
    if not hasattr(found, "standin_report"):
        return None
    found.standin_report.restype = ctypes.c_char_p
    found.standin_capturing.argtypes = [ctypes.c_void_p]
    found.standin_enqueue.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    return found


def _here() -> ctypes.CDLL:
    found = library()
    assert found is not None, "there is no stand-in: `make test-cuda` builds it"
    return found


def need() -> None:
    """Where there is no stand-in, the tests of the file that says this are skipped."""
    if library() is None:
        hint = "the CUDA path: `make test-cuda` runs this, in an environment of its own"
        pytest.skip(hint, allow_module_level=True)


def seen() -> Seen:
    """What has been launched, captured and violated."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for line in _here().standin_report().decode().splitlines():
        kind, name, count = line.split("\t")
        kinds[kind][name] = int(count)
    violations = list(kinds.pop("violation", ()))
    return Seen(kinds.pop("launched", Counter()), dict(kinds), violations)


def forget() -> None:
    """Count from nothing."""
    _here().standin_reset()


def be_lazy(on: bool) -> None:
    """Do the work of a stream when somebody waits for it, or at once."""
    _here().standin_lazy(on)


def is_capturing(stream: int) -> bool:
    """Whether what is put on it goes into a graph.  stream: its address."""
    return bool(_here().standin_capturing(stream))


def enqueue(stream: int, callback: Any, number: int) -> None:
    """Have `callback(number)` called when its turn comes on that stream.  callback: a C function, to be kept."""
    _here().standin_enqueue(stream, callback, number)


def touched(count: int) -> list[int]:
    """Of the first `count` devices, those on which this process holds a context."""
    return [device for device in range(count) if _here().standin_touched(device)]
