"""Which way to run a model here, and why: chosen once, from the device, the model and the options, and then
prepared as far as this machine allows.
"""

import logging
from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedModel

from ...engine_options import EngineOptions
from ...errors import ConfigError
from ...progress import ReportProgress
from ..errors import NotSupported
from .dynamic_path import DynamicPath
from .path import ForwardPath
from .static_path import StaticPath
from .toolchain import what_is_missing

logger = logging.getLogger(__name__)

SMALL_MODEL_PARAMETERS = 20_000_000
"""A model of fewer fits into a CPU's caches: compiling takes ten seconds and gains little, and threads spend more
time on meeting than on multiplying."""


def choose_path(
    model: PreTrainedModel, device: torch.device, options: EngineOptions, capacity: int, *, ranges: bool
) -> tuple[ForwardPath, str]:
    """A path for sequences of up to `capacity` tokens, and the reason where it is not the fast one, else "".

    Raises ConfigError where the options insist on the static path and this model cannot have it, for a model that
    no path can run, and for one that no path runs deterministically here.
    """
    why = "path is set to dynamic"
    if options.path != "dynamic":
        try:
            return StaticPath(model, capacity, device, ranges=ranges), ""
        except NotSupported as error:
            if options.path == "static":
                raise ConfigError(f"the static path cannot run this model: {error}. Set path to auto") from error
            why = str(error)
    if options.deterministic and device.type == "cuda":  # transformers' kernels there may add up in any order
        raise ConfigError(
            f"engine.deterministic needs the static path on a GPU, and {why}. Use another model, the CPU, or "
            "engine.deterministic: false"
        )
    try:
        return DynamicPath(model, capacity), why
    except NotSupported as error:
        raise ConfigError(f"this model cannot be served: {error}. Use another model") from error


def prepare(path: ForwardPath, options: EngineOptions, parameters: int, progress: ReportProgress) -> str:
    """Compile and capture the decode step, as far as that can be done here.  Returns what could not, and why.

    transformers' own path has small matrices multiplied by our operator, and no more.

    A deterministic step is made in one way or not at all: raises ConfigError where one of these fails.
    """
    static = path if isinstance(path, StaticPath) else None
    on_gpu = static is not None and static.device.type == "cuda"
    shortfalls = []

    def attempt(name: str, action: Callable[[], None]) -> None:
        if shortfall := _attempt(name, action):
            shortfalls.append(shortfall)

    worth_it = on_gpu or parameters >= SMALL_MODEL_PARAMETERS
    if options.compile == "always" or (options.compile == "auto" and worth_it):
        if static:
            progress("compiling the decode step", 0, 1)
        attempt("made of our kernels", path.use_kernels)
        if static:
            attempt("compiled", partial(static.compile, deterministic=options.deterministic))
    if static and on_gpu:
        attempt("captured", partial(static.capture, progress))
        if options.deterministic and not static.has_kernels and not shortfalls:
            shortfalls.append("not made of our kernels: engine.compile is never, which is for the CPU")
    if options.deterministic and shortfalls:
        way_out = "engine.deterministic: false" if on_gpu else "engine.compile: never"
        raise ConfigError(
            f"engine.deterministic needs a decode step that is made alike at each start, and here it is "
            f"{'; '.join(shortfalls)}. Mend that, or set {way_out}"
        )
    return "; ".join(shortfalls)


def prepare_for_one_answer(path: ForwardPath, parameters: int) -> None:
    """Of `prepare`, what a single answer of small weights on a CPU is to wait for: our operator.

    It is built in seconds, once. Without it each matrix is written out for each token, which takes far longer.
    """
    if parameters >= SMALL_MODEL_PARAMETERS:
        _attempt("made of our kernels", path.use_kernels)


def _attempt(name: str, action: Callable[[], None]) -> str:
    """Returns why it could not be done, or ""."""
    try:
        action()
    except Exception as error:  # whatever Triton, a compiler or CUDA raise, the step runs without it
        missing = what_is_missing(error)
        logger.warning("the decode step could not be %s", name, exc_info=missing is None)
        return f"not {name}: {missing or _first_line(error)}"
    return ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
