"""What torch finds on this machine, and what a model would take of it: facts for `doctor`, without judgement."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch

from .context import model_context
from .kv_cost import kv_cost
from .memory import free_bytes, room_in
from .model_config import read_config
from .model_loader import torch_dtype


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
    built_for: tuple[str, ...]
    """Architectures that this build of torch has kernels for."""


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """What a model would take on a device that holds nothing of it yet."""

    dtype: str
    weights_bytes: int
    free_bytes: int
    model_context: int
    """Tokens, of the model's own."""
    context_that_fits: int
    """Tokens, unless the setting asks for more; 0 where not even the weights fit."""


def torch_facts() -> TorchFacts:
    """Of this process."""
    return TorchFacts(str(torch.__version__), torch.version.cuda, _driver_cuda())


def gpu_facts(device: torch.device) -> GpuFacts:
    """Of a CUDA device."""
    major, minor = torch.cuda.get_device_capability(device)
    return GpuFacts(torch.cuda.get_device_name(device), f"sm_{major}{minor}", tuple(torch.cuda.get_arch_list()))


def memory_facts(folder: Path, device: torch.device, dtype_name: str, parameters: int) -> MemoryFacts:
    """parameters: how many the model has.  Raises ConfigError for a folder without a usable config.json."""
    config = read_config(folder)
    dtype = torch_dtype(dtype_name, device)
    weights = parameters * dtype.itemsize
    free = free_bytes(device)
    return MemoryFacts(
        dtype=str(dtype).removeprefix("torch."),
        weights_bytes=weights,
        free_bytes=free,
        model_context=model_context(config).usual,
        context_that_fits=room_in(free - weights, kv_cost(config, dtype), device).usual,
    )


def _driver_cuda() -> str | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
