"""What torch finds on this machine, and what a model would take of it: facts for `doctor`, without judgement."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from .device import architecture
from .driver import driver_cuda
from .memory import KEPT_FREE_BYTES, free_bytes, kv_bytes_per_token
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


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """What a model would take on a device that holds nothing of it yet."""

    dtype: str
    weights_bytes: int
    kv_bytes_per_token: int
    free_bytes: int
    model_context: int
    context_that_fits: int
    """Tokens; 0 or less where not even the weights fit."""


def torch_facts() -> TorchFacts:
    """Of this process."""
    return TorchFacts(str(torch.__version__), torch.version.cuda, driver_cuda())


def gpu_facts(device: torch.device) -> GpuFacts:
    """Of a CUDA device."""
    return GpuFacts(torch.cuda.get_device_name(device), architecture(device))


def memory_facts(folder: Path, device: torch.device, dtype_name: str, parameters: int) -> MemoryFacts:
    """parameters: how many the model has.  Raises errors of transformers for a folder without a usable config."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    dtype = torch_dtype(dtype_name, device)
    per_token = kv_bytes_per_token(config, dtype)
    weights = parameters * dtype.itemsize
    free = free_bytes(device)
    return MemoryFacts(
        dtype=str(dtype).removeprefix("torch."),
        weights_bytes=weights,
        kv_bytes_per_token=per_token,
        free_bytes=free,
        model_context=config.max_position_embeddings,
        context_that_fits=(free - weights - KEPT_FREE_BYTES[device.type]) // per_token,
    )
