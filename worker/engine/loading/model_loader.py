"""From a model folder to a model on its device. Knows no tokenizer, and never reaches for the network."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ...errors import ConfigError
from ...progress import ReportProgress, no_progress
from .device import check_dtype, default_dtype
from .progress_bars import no_progress_bars

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelLoader:
    """Loads causal language models from local folders of the Hugging Face form.

    No accelerate and no device_map: the weights are memory-mapped, and go from the file to the device part by
    part, so that no second copy is ever in memory. On a CPU, in the dtype of the file, they stay mapped.
    """

    def __init__(self, path: Path, dtype: str = "auto") -> None:
        """`dtype`: float32, bfloat16, float16, or auto, as `device.default_dtype` has it."""
        if dtype != "auto" and dtype not in _DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not known: use auto, {', '.join(_DTYPES)}")
        self._path = path
        self._dtype = dtype

    def load(self, device: torch.device, progress: ReportProgress = no_progress) -> PreTrainedModel:
        """The model on `device`, in eval mode.

        Raises ConfigError when the folder holds no model that transformers can load, or lacks some weights.
        """
        progress("loading weights", 0, 0)
        dtype = torch_dtype(self._dtype, device)
        _read_ahead(self._path)
        model, report = self._read(dtype)
        if missing := sorted(report["missing_keys"]):
            # transformers would fill them with random numbers and only log a warning.
            raise ConfigError(
                f"the model in {self._path} is incomplete: {len(missing)} tensors are missing, {missing[0]} the "
                "first of them. Download it again"
            )
        _move(model, device, progress)
        model.eval()
        return model

    def _read(self, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
        try:
            with no_progress_bars():
                loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
                    self._path,
                    local_files_only=True,
                    dtype=dtype,
                    output_loading_info=True,
                )
        except Exception as error:
            reason, _, _ = str(error).partition("\n")
            raise ConfigError(
                f"the model in {self._path} cannot be loaded: {reason}. Download it again, or give its name "
                "another folder in the model paths file"
            ) from error
        return loaded


def torch_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; for `auto`, the one of the device.  Raises ConfigError where it cannot have it."""
    if name == "auto":
        return default_dtype(device)
    check_dtype(_DTYPES[name], device)
    return _DTYPES[name]


def _read_ahead(folder: Path) -> None:
    """Have the system fetch the weights, many pieces at once; a mapped file is else read page by page."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _move(model: PreTrainedModel, device: torch.device, progress: ReportProgress) -> None:
    """To the device, one part after the other: for the bar, and to hold one part twice at most."""
    total = sum(parameter.nbytes for parameter in model.parameters())
    done = 0
    for part in [*model.base_model.children(), model]:
        for layer in part if isinstance(part, nn.ModuleList) else [part]:
            layer.to(device)  # a parameter that was moved already is left alone
            if layer is not model:
                done += sum(parameter.nbytes for parameter in layer.parameters())
                progress("loading weights", done, total)
