"""From a model folder to a model on its device. Knows no tokenizer, and never reaches for the network."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ...engine_options import Group, Weights
from ...errors import ConfigError
from ...models.model_files import StoredTensor, read_weights, tensors_of
from ...progress import ReportProgress, no_progress
from .device import check_dtype, default_dtype
from .model_config import check_generation_config, read_config, reason_of
from .packed_files import PackedLinear
from .progress_bars import no_progress_bars
from .small_weights import make_small
from .weights_form import ADVICE, PackedFiles, WeightsForm, weights_form

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OF_FILES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PACKED, _SCALES = ".qweight", ".scales"
"""Ends of names, of a matrix of GPTQ or AWQ."""


class ModelLoader:
    """Loads causal language models from local folders of the Hugging Face form.

    No accelerate and no device_map: the weights are memory-mapped, and go from the file to the device part by
    part, so that no second copy is ever in memory. On a CPU, in the dtype of the file, they stay mapped.
    """

    def __init__(self, path: Path, dtype: str = "auto", *, weights: Weights = "auto", group: Group = 32) -> None:
        """`dtype`: float32, bfloat16, float16, or auto, as `device.default_dtype` has it.

        `weights`, `group`: see `EngineOptions.weights`.
        """
        if dtype != "auto" and dtype not in _DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not known: use auto, {', '.join(_DTYPES)}")
        self._path = path
        self._dtype = dtype
        self._weights: Weights = weights
        self._group: Group = group

    def load(self, device: torch.device, progress: ReportProgress = no_progress) -> PreTrainedModel:
        """The model on `device`, in eval mode.

        Raises ConfigError that names what is wrong with the folder: a file, or tensors that are missing or of
        another shape than config.json says.
        """
        progress("loading weights", 0, 0)
        config = read_config(self._path)
        quantization = getattr(config, "quantization_config", None)
        form = weights_form(self._dtype, self._weights, self._group, quantization)
        dtype = torch_dtype(form.dtype, device)
        check_generation_config(self._path)
        read_weights(self._path)  # their headers: a file that is cut off is known by its name, and at once
        _read_ahead(self._path)
        if form.small is None:
            model, report = self._read(AutoModelForCausalLM, config, dtype)
            self._check(report)
        else:
            model = self._read_small(config, form, dtype, device, progress)
        _move(model, device, progress)
        model.eval()
        return model

    def _read_small(
        self,
        config: PreTrainedConfig,
        form: WeightsForm,
        dtype: torch.dtype,
        device: torch.device,
        progress: ReportProgress,
    ) -> PreTrainedModel:
        """As the files have it first: what is not converted stays mapped, and takes no memory."""
        there = tensors_of(self._path)
        kinds = [
            tensor.dtype
            for name, tensor in there.items()
            if tensor.dtype in _OF_FILES and not name.endswith(_SCALES)  # which have a dtype of their own
        ]
        as_in_files = _OF_FILES[max(kinds, key=kinds.count)] if kinds else dtype
        if form.files is None:
            model, report = self._read(AutoModelForCausalLM, config, as_in_files)
        else:
            if not any(name.endswith(_PACKED) for name in there):
                raise ConfigError(
                    f"config.json in {self._path} says that its weights are {form.files.format}, and none of them "
                    "is: take quantization_config out of it, or download both again, from one place"
                )
            del config.quantization_config
            own = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            model, report = self._read(_with_packed(own, there, form.files), config, as_in_files)
            cast("Any", model).__class__ = own
        self._check(report)
        make_small(model, form, dtype, device, progress)
        return model

    def _read(
        self, model_class: Any, config: PreTrainedConfig, dtype: torch.dtype
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        try:
            with no_progress_bars():
                loaded: tuple[PreTrainedModel, dict[str, Any]] = model_class.from_pretrained(
                    self._path,
                    config=config,
                    local_files_only=True,
                    trust_remote_code=False,
                    dtype=dtype,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # `_check` says which they are
                )
        except Exception as error:
            on_meta(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)  # says so where config.json is at fault
            if type(error).__name__ == "UnpicklingError":  # whose advice is to run what the file says
                raise ConfigError(
                    f"the *.bin files in {self._path} are no weights, or more than that: code in them is never "
                    "run here. Download them again, or take a version with *.safetensors"
                ) from error
            raise ConfigError(
                f"the weights in {self._path} cannot be loaded: {reason_of(error)}. Download them again, or use "
                "another model"
            ) from error
        return loaded

    def _check(self, report: dict[str, Any]) -> None:
        """transformers would fill what does not fit with random numbers, and only log a warning."""
        if mismatched := sorted(report["mismatched_keys"]):
            name, in_file, by_config = mismatched[0]
            raise ConfigError(
                f"the weights in {self._path} are not those that config.json describes: {name} has the shape "
                f"{list(in_file)} in the file and {list(by_config)} by config.json{_more(mismatched)}. Download "
                "both again, from one place"
            )
        missing, unused = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
        if packed := [name for name in unused if missing and name.endswith(_PACKED)]:
            raise ConfigError(
                f"the weights in {self._path} are quantized, and {packed[0]} is not read here: it is of no linear "
                "of this model (as where experts are one tensor), or config.json has no quantization_config. "
                f"{ADVICE}"
            )
        if missing:
            raise ConfigError(
                f"the model in {self._path} is incomplete: {len(missing)} tensors are missing that config.json "
                f"asks for, {missing[0]} the first of them. Download it again, config.json with it"
            )
        if unused:
            logger.warning(
                "config.json in %s has no place for %d tensors of the weights, %s the first of them: they are "
                "left out",
                self._path,
                len(unused),
                unused[0],
            )


def skeleton(config: PreTrainedConfig, form: WeightsForm, there: Mapping[str, StoredTensor]) -> PreTrainedModel:
    """The model as it is loaded before it is made small, without memory for its weights.

    there: the tensors of the files.  Raises ConfigError where transformers makes no model of this configuration.
    """
    own: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return on_meta(_with_packed(own, there, form.files) if form.files else own, config)


def on_meta(model_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """A model without memory for its weights.  Raises ConfigError where transformers makes none of `config`."""
    try:
        with torch.device("meta"):
            model: PreTrainedModel = model_class(config)
    except Exception as error:
        raise ConfigError(
            f"config.json is refused by transformers: {reason_of(error)}. Correct it, or download it again"
        ) from error
    return model


def _with_packed(own: Any, there: Mapping[str, StoredTensor], files: PackedFiles) -> Any:
    """A class whose models have the tensors of the files, where these are packed. transformers reads the rest."""

    class Packed(own):  # type: ignore[misc]
        def __init__(self, config: PreTrainedConfig, *args: Any, **options: Any) -> None:
            super().__init__(config, *args, **options)
            for name, module in list(self.named_modules()):
                if type(module) is nn.Linear and f"{name}{_PACKED}" in there:
                    scales = there.get(f"{name}{_SCALES}")
                    dtype = _OF_FILES.get(scales.dtype if scales else "", torch.float16)
                    self.set_submodule(name, PackedLinear(module, files, dtype))

    Packed.__name__ = Packed.__qualname__ = own.__name__
    return Packed


def _more(items: Sequence[object]) -> str:
    return f", and {len(items) - 1} tensors more" if len(items) > 1 else ""


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
