"""What torch finds on this machine, and what a model would take of it: facts for `doctor`, without judgement."""

import contextlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from ...engine_options import EngineOptions
from ...errors import ConfigError
from ...models.model_files import tensors_of
from .context import model_context
from .device import architecture
from .driver import driver_cuda
from .kv_cost import kv_cost
from .memory import check_room, check_wanted, free_bytes, room_in
from .model_config import read_config
from .model_loader import on_meta, skeleton, torch_dtype
from .small_weights import planned_bytes
from .weights_form import WeightsForm, weights_form

_DEFAULT_OPTIONS = EngineOptions()
_SMALL: tuple[Literal["int8"], Literal["int4"]] = ("int8", "int4")


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """This build of torch, and the driver that it would use."""

    version: str
    cuda: str | None
    """The CUDA that it was built with, as 12.8; None for a build without."""
    driver_cuda: str | None
    """The newest CUDA that the driver can serve; None where there is no driver."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU."""

    name: str
    architecture: str
    """As sm_90."""


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """What a model would take on a device that holds nothing of it yet."""

    dtype: str
    """Of the weights, or the small form that they are to have."""
    weights_bytes: int
    free_bytes: int
    model_context: int
    """Tokens, of the model's own."""
    context_that_fits: int
    """Tokens, unless the setting asks for more; 0 where not even the weights fit."""
    refused: str = ""
    """Why the context_length of the settings cannot be had; empty where it can, or where none is set."""
    smaller: Mapping[str, int] = field(default_factory=dict)
    """What the weights would take in each small form, where they have none and the model can have it."""


def torch_facts() -> TorchFacts:
    """Of this process."""
    return TorchFacts(torch_version(), torch.version.cuda, driver_cuda())


def torch_version() -> str:
    """As 2.13.0+cu128."""
    return str(torch.__version__)


def device_name(device: torch.device) -> str:
    """As its maker calls it: two runs of one request may part where these differ."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def gpu_facts(device: torch.device) -> GpuFacts:
    """Of a CUDA device."""
    return GpuFacts(torch.cuda.get_device_name(device), architecture(device))


def why_not_served(folder: Path) -> str | None:
    """What config.json says against it; None for a model that generates text."""
    try:
        config = read_config(folder)
        model_context(config)
        on_meta(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
    except ConfigError as error:
        return str(error)
    return None


def memory_facts(
    folder: Path, device: torch.device, dtype_name: str, parameters: int, options: EngineOptions = _DEFAULT_OPTIONS
) -> MemoryFacts:
    """parameters: how many the model has.  Raises ConfigError for a folder without a usable config.json, and for a
    dtype or a form of weights that cannot be had."""
    config = read_config(folder)
    form = weights_form(
        dtype_name, options.weights, options.weights_group, getattr(config, "quantization_config", None)
    )
    dtype = torch_dtype(form.dtype, device)
    there = tensors_of(folder)

    def planned(form: WeightsForm) -> int:
        return planned_bytes(skeleton(config, form, there), form, dtype)

    weights = planned(form) if form.small else parameters * dtype.itemsize
    smaller: dict[str, int] = {}
    if not form.small:
        with contextlib.suppress(ConfigError):  # the model cannot have them
            smaller = {name: planned(replace(form, small=name, group=options.weights_group)) for name in _SMALL}
    free, context = free_bytes(device), model_context(config)
    room = room_in(free - weights, kv_cost(config, dtype), device)
    refused = ""
    if options.context_length is not None:
        try:
            check_wanted(options.context_length, context)
            check_room(options.context_length, room, max(free - weights, 0), device)
        except ConfigError as error:
            refused = str(error)
    return MemoryFacts(
        dtype=form.small or str(dtype).removeprefix("torch."),
        weights_bytes=weights,
        free_bytes=free,
        model_context=context.usual,
        context_that_fits=room.usual,
        refused=refused,
        smaller=smaller,
    )
