"""Which form weights are held in: from the settings and from what a folder says of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

import torch

from ...engine_options import Group, Weights
from ...errors import ConfigError
from ...models.model_files import StoredTensor

FileFormat = Literal["gptq", "gptq_v2", "awq"]
_FLOATS = ("float32", "bfloat16", "float16")
_ADVICE = "Use the model's own repository, without it, and engine.weights int8 or int4"


@dataclass(frozen=True, slots=True)
class WeightsForm:
    """What was decided."""

    dtype: str
    """Of rows, keys and values, and of weights that are not small; may be auto."""
    small: Literal["int8", "int4"] | None = None
    group: Group = 32
    files: FileFormat | None = None
    """How the files hold them, where they are small already."""


def weights_form(dtype: str, weights: Weights, group: Group, quantization: Any = None) -> WeightsForm:
    """dtype: the worker's.  quantization: what config.json has under `quantization_config`.

    Raises ConfigError where the settings contradict each other or the folder, and for formats that are not read.
    """
    files = _file_format(quantization) if quantization is not None else None
    if files is not None:
        if weights not in ("auto", "int4"):
            raise ConfigError(
                f"the weights of this model are int4 already ({files}): leave engine.weights at auto, or use the "
                "model's own repository, without it"
            )
        return WeightsForm(dtype, "int4", group, files)
    if weights in _FLOATS:
        if dtype not in ("auto", weights):
            raise ConfigError(
                f"dtype is {dtype} and engine.weights {weights}, which are one where weights are not small: leave "
                "one of them at auto"
            )
        return WeightsForm(weights)
    return WeightsForm(dtype, None if weights == "auto" else cast("Literal['int8', 'int4']", weights), group)


def small_bytes(tensors: Mapping[str, StoredTensor], form: WeightsForm, dtype: torch.dtype) -> int:
    """What the tensors of a folder take in their small form: an estimate, by their names and shapes alone."""
    total = 0
    for name, tensor in tensors.items():
        numbers = prod(tensor.shape)
        if form.files is not None and name.rpartition(".")[2] in ("qweight", "qzeros", "scales", "g_idx"):
            # A zero has a byte here, and four bits in the files.
            total += {"qweight": 4, "qzeros": 8, "scales": 2, "g_idx": 0}[name.rpartition(".")[2]] * numbers
        elif len(tensor.shape) != 2:
            total += numbers * dtype.itemsize
        elif form.small == "int8" or any(end in name for end in _ENDS) or tensor.shape[1] % 32:
            total += numbers + 4 * tensor.shape[0]
        else:
            total += numbers // 2 + numbers // form.group * 3
    return total


_ENDS = "embed", "lm_head", "wte"
"""Of names of the first and the last matrix, which are int8 where the others are int4."""


def _file_format(quantization: Any) -> FileFormat:
    """Raises ConfigError, by name, for what is not read."""
    described: dict[str, Any] = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method = described.get("quant_method")
    if method not in ("gptq", "awq"):
        raise ConfigError(f"its weights are quantized by {method}, which is not read here. {_ADVICE}")
    if (bits := described.get("bits", described.get("w_bit"))) != 4:
        raise ConfigError(f"its weights are quantized by {method} to {bits} bits, and 4 are read here. {_ADVICE}")
    if method == "awq":
        if (version := str(described.get("version", "gemm")).lower()) != "gemm":
            raise ConfigError(f"its weights are in AWQ's version {version}, and gemm is read here. {_ADVICE}")
        return "awq"
    made = described.get("checkpoint_format", "gptq")
    if made not in ("gptq", "gptq_v2"):
        raise ConfigError(
            f"its weights are in GPTQ's format {made}, and gptq and gptq_v2 are read here. {_ADVICE}"
        )
    return cast("FileFormat", made)
