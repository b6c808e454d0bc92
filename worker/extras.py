"""A bare install is the producer alone. The worker needs an extra, which is to be named where it is missing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ConfigError

WORKER_PACKAGES = frozenset(
    [
        "jinja2",
        "llguidance",
        "numpy",
        "prometheus_client",
        "psutil",
        "pythonjsonlogger",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    ]
)
"""Modules of the extra `worker`, as pyproject.toml has it."""


@contextmanager
def worker_extra() -> Iterator[None]:
    """Around imports.  Raises ConfigError that names the extra where one of its packages is missing.

    The garbage collector stands still meanwhile. torch and transformers make half a million objects that stay, and
    to go through them again and again took a quarter of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in WORKER_PACKAGES:
            raise
        raise ConfigError(
            f"{package} is not installed, which the worker needs: pip install 'genqueue[worker]'"
        ) from error
    finally:
        if collects:
            gc.enable()
