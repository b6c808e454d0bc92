"""Which way to run a model here, and why: chosen once, from the device, the model and the options, and then
prepared as far as this machine allows.
"""

import logging

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

    Raises ConfigError where the options insist on the static path, and this model cannot have it.
    """
    if options.path == "dynamic":
        return DynamicPath(model), "path is set to dynamic"
    try:
        return StaticPath(model, capacity, device, ranges=ranges), ""
    except NotSupported as error:
        if options.path == "static":
            raise ConfigError(f"the static path cannot run this model: {error}. Set path to auto") from error
        return DynamicPath(model), str(error)


def prepare(path: StaticPath, options: EngineOptions, parameters: int, progress: ReportProgress) -> str:
    """Compile and capture the decode step, as far as that can be done here.  Returns what could not, and why."""
    on_gpu = path.device.type == "cuda"
    shortfalls = []
    worth_it = on_gpu or parameters >= SMALL_MODEL_PARAMETERS
    if options.compile == "always" or (options.compile == "auto" and worth_it):
        progress("compiling the decode step", 0, 1)
        try:
            path.compile()
        except Exception as error:  # whatever a compiler raises, the step runs without it
            missing = what_is_missing(error)
            logger.warning("the decode step could not be compiled", exc_info=missing is None)
            shortfalls.append(f"not compiled: {missing or _first_line(error)}")
    if on_gpu:
        try:
            path.capture(progress)
        except RuntimeError as error:
            logger.warning("the decode step could not be captured", exc_info=True)
            shortfalls.append(f"not captured: {_first_line(error)}")
    return "; ".join(shortfalls)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
