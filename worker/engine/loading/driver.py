"""Why torch finds no GPU here: facts of the driver and the environment, each with what to do about it."""

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
GET_TORCH = "see pytorch.org/get-started"

_NVML_DRIVER_NOT_LOADED, _NVML_VERSION_MISMATCH = 9, 18  # nvml.h


class Fault(NamedTuple):
    """What stands in the way, and what to do: parts of a sentence."""

    why: str
    advice: str


def why_no_gpu(said: Sequence[str]) -> Fault:
    """The nearest reason.  said: what torch has warned of when it looked for one."""
    return (
        build_fault()
        or driver_fault(torch.version.cuda, driver_cuda())
        or _hidden()
        or nvml_fault()
        or _misnamed()
        or _in_torchs_words(said)
    )


def build_fault() -> Fault | None:
    """Of torch itself."""
    if torch.version.cuda or torch.version.hip:
        return None
    return Fault("this build of torch has no CUDA", f"install one that has, {GET_TORCH}")


def driver_fault(built_for: str | None, served: str | None) -> Fault | None:
    """Of a driver that is missing, or too old for this build of torch.

    built_for: torch.version.cuda; served: as from `driver_cuda`. Within a major version, any driver will do.
    """
    if built_for is None:
        return None
    if served is None:
        advice = "install it; a container needs the NVIDIA Container Toolkit and --gpus all"
        return Fault("there is no NVIDIA driver", advice)
    wanted, major = built_for.partition(".")[0], served.partition(".")[0]
    if int(major) >= int(wanted):
        return None
    return Fault(
        f"the driver serves CUDA up to {served}, and this build of torch is for {built_for}",
        f"install a driver for CUDA {wanted}, or a build of torch for CUDA {major} ({GET_TORCH})",
    )


def nvml_fault() -> Fault | None:
    """Of the library that nvidia-smi is made of. torch can do without it, but its state tells of the driver's."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Fault(
            "NVML (libnvidia-ml.so.1) is missing, so that the driver is not whole",
            "install it anew; a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )
    code = int(nvml.nvmlInit_v2())
    if code == _NVML_VERSION_MISMATCH:
        return Fault("the driver's libraries are newer than what runs of it", "restart the machine")
    if code == _NVML_DRIVER_NOT_LOADED:
        return Fault("the driver is installed and not loaded", "restart the machine, or modprobe nvidia")
    return Fault(f"NVML fails with error {code}", "see what nvidia-smi says of it") if code else None


def driver_cuda() -> str | None:
    """The newest CUDA that the driver can serve, as 12.8; None where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _hidden() -> Fault | None:
    names = os.environ.get(VISIBLE_DEVICES)
    if names is None or (names.strip() and not names.strip().startswith("-")):
        return None
    what = f"is {names!r}" if names.strip() else "is empty"
    return Fault(f"{VISIBLE_DEVICES} {what}, which hides every GPU", "unset it, or set it to a GPU's number")


def _misnamed() -> Fault | None:
    names = os.environ.get(VISIBLE_DEVICES)
    if names is None:
        return None
    return Fault(
        f"{VISIBLE_DEVICES} is {names!r}, and there is no such GPU that works",
        "set it to what `nvidia-smi -L` lists, or unset it",
    )


def _in_torchs_words(said: Sequence[str]) -> Fault:
    advice = "check nvidia-smi; where the driver was updated, restart the machine"
    reasons = [words.removeprefix("CUDA initialization: ").partition(" (Triggered")[0].strip() for words in said]
    return Fault(f"it says: {reasons[0].rstrip('.')}" if reasons else "CUDA lists none", advice)
