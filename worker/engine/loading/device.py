"""From `--device` to torch.device: the one place where a device is chosen.

The device is decided at the top of the program and handed down to the loader and to the engine.
"""

import torch

from ...errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device of that name: `cpu`, `cuda` (its first GPU) or `cuda:N`.

    Raises ConfigError, which says what can be used here, for a name that is none or a GPU that is not there.
    """
    kind, colon, index = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not (index.isascii() and index.isdigit())):
        raise ConfigError(f"device {name!r} is not known: use cpu, cuda or cuda:N, as in --device cuda:0")
    return _gpu(name, int(index or 0))


def set_up_process(threads: int | None) -> None:
    """What holds for a whole process, and is therefore left to one that is an engine's own.

    `threads`: for torch on a CPU; None leaves the choice to it.
    """
    if threads:
        torch.set_num_threads(threads)
    # On the newest GPUs torch would take cuDNN's attention, which makes a plan for each new length of a prompt, in
    # 25 to 40 ms, and keeps them all. Source: pytorch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
    torch.backends.cuda.enable_cudnn_sdp(False)


def _gpu(name: str, index: int) -> torch.device:
    if not torch.cuda.is_available():
        why = "" if torch.version.cuda else ", because this build of torch has no CUDA"
        raise ConfigError(
            f"device {name!r} cannot be used: torch finds no CUDA GPU on this machine{why}. Use --device cpu, or "
            "check nvidia-smi, the driver and that a CUDA build of torch is installed"
        )
    count = torch.cuda.device_count()
    if index >= count:
        usable = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ConfigError(f"device {name!r} is not there: this process sees {count} GPU(s), {usable}")
    return torch.device("cuda", index)
