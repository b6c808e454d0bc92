"""From `--device` to torch.device: the one place where a device is chosen, and what this device can do.

The device is decided at the top of the program and handed down to the loader and to the engine.
"""

import os
import warnings

import torch

from ...errors import ConfigError
from .driver import GET_TORCH, VISIBLE_DEVICES, why_no_gpu

_BFLOAT16_SINCE = (8, 0)
"""Compute capability. Older GPUs only imitate it, many times slower."""


def resolve_device(name: str) -> torch.device:
    """The device of that name: `cpu`, `cuda` (its first GPU) or `cuda:N`.

    Raises ConfigError, which says what can be used here, for a name that is none, for a GPU that is not there and
    for one that this build of torch has no kernels for.
    """
    kind, colon, index = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not (index.isascii() and index.isdigit())):
        raise ConfigError(f"device {name!r} is not known: use cpu, cuda or cuda:N, as in --device cuda:0")
    return _gpu(name, int(index or 0))


def set_threads(threads: int) -> None:
    """For torch on a CPU. It holds for a whole process, and is therefore left to one that is an engine's own."""
    torch.set_num_threads(threads)


def set_up_device(device: torch.device) -> None:
    """What has to hold for this process before a model runs on the device."""
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)  # streams, events and graphs belong to the current device
    # On the newest GPUs torch would take cuDNN's attention, which makes a plan for each new length of a prompt, in
    # 25 to 40 ms, and keeps them all. Source: pytorch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
    torch.backends.cuda.enable_cudnn_sdp(False)


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, or float16 where it does not compute in bfloat16; float32 on a CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if _has_bfloat16(device) else torch.float16


def check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Raises ConfigError where the device does not compute in that dtype."""
    if dtype == torch.bfloat16 and device.type == "cuda" and not _has_bfloat16(device):
        raise ConfigError(
            f"{device} is a {torch.cuda.get_device_name(device)}, which does not compute in bfloat16 (that came "
            f"with compute capability 8.0, and this is {_dotted(device)}): leave dtype at auto, float16 there"
        )


def card_of(device: torch.device) -> str | None:
    """What names a GPU whatever number this process sees it under; None for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def architecture(device: torch.device) -> str:
    """Of a GPU, as sm_90."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _gpu(name: str, index: int) -> torch.device:
    count, said = _count_gpus()
    if not count:
        fault = why_no_gpu(said)
        raise ConfigError(
            f"device {name!r} cannot be used: torch finds no CUDA GPU, because {fault.why}. Use --device cpu, or "
            f"{fault.advice}"
        )
    if index >= count:
        usable = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        visible = os.environ.get(VISIBLE_DEVICES)
        shown = f" ({VISIBLE_DEVICES} is {visible!r})" if visible else ""
        raise ConfigError(f"device {name!r} is not there: this process sees {count} GPU(s), {usable}{shown}")
    device = torch.device("cuda", index)
    try:
        _check_kernels(device)
    except RuntimeError as error:  # the first that is asked of the card itself
        raise ConfigError(
            f"device {name!r} cannot be used: {str(error).partition(chr(10))[0]}. See with nvidia-smi whether the "
            "card is well, and whether another process holds it for itself"
        ) from error
    return device


def _count_gpus() -> tuple[int, list[str]]:
    """How many torch can use, and what it has said of those that it cannot."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")  # it says why it finds none as a warning, and once in a process
        try:
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        except RuntimeError as error:
            return 0, [str(error).partition("\n")[0]]
    return count, [str(warning.message) for warning in warned]


def _check_kernels(device: torch.device) -> None:
    """Raises ConfigError where every operation would fail."""
    there, built_for = architecture(device), torch.cuda.get_arch_list()
    known = [kernels for kernels in built_for if kernels.startswith(("sm_", "compute_"))]  # and not AMD's
    if known and not any(_runs_on(kernels, there) for kernels in known):
        raise ConfigError(
            f"{device} is a {torch.cuda.get_device_name(device)} ({there}), for which this build of torch has no "
            f"kernels (it has {', '.join(known)}): install one that has, {GET_TORCH}, or use another device"
        )


def _runs_on(kernels: str, gpu: str) -> bool:
    """Kernels for sm_86 run on every sm_8x from 6 on, those for sm_90a on sm_90 alone; compute_80 is compiled for
    each GPU from sm_80 on."""
    kind, _, number = kernels.partition("_")
    built, there = (int("".join(filter(str.isdigit, text))) for text in (number, gpu))
    if number.endswith("a"):
        return built == there
    return built <= there and (kind == "compute" or built // 10 == there // 10)


def _has_bfloat16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= _BFLOAT16_SINCE


def _dotted(device: torch.device) -> str:
    return ".".join(map(str, torch.cuda.get_device_capability(device)))
