"""Which form weights are held in: from the settings and from what a folder says of its weights."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from ...engine_options import Group, Weights
from ...errors import ConfigError

FileFormat = Literal["gptq", "gptq_v2", "awq"]
_FLOATS = ("float32", "bfloat16", "float16")
ADVICE = "Use the model's own repository, without it, and engine.weights int8 or int4"


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """How files hold weights that are small already."""

    format: FileFormat
    group: int
    """Columns of a group; -1 for one that is as long as a row."""
    symmetric: bool = False
    """Whether each zero is said to be in the middle, where it need not be kept."""


@dataclass(frozen=True, slots=True)
class WeightsForm:
    """What was decided."""

    dtype: str
    """Of rows, keys and values, and of weights that are not small; may be auto."""
    small: Literal["int8", "int4"] | None = None
    group: Group = 32
    files: PackedFiles | None = None
    """Where they are small already in the files."""


def weights_form(dtype: str, weights: Weights, group: Group, quantization: Any = None) -> WeightsForm:
    """dtype: the worker's.  quantization: what config.json has under `quantization_config`.

    Raises ConfigError where the settings contradict each other or the folder, and for formats that are not read.
    """
    files = _packed_files(quantization) if quantization is not None else None
    if files is not None:
        if weights not in ("auto", "int4"):
            raise ConfigError(
                f"the weights of this model are int4 already ({files.format}): leave engine.weights at auto, or "
                "use the model's own repository, without it"
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


def _packed_files(quantization: Any) -> PackedFiles:
    """Raises ConfigError, by name, for what is not read."""
    described: dict[str, Any] = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method = described.get("quant_method")
    if method not in ("gptq", "awq"):
        raise _not_read(f"by {method}, which is not read here")
    if (bits := described.get("bits", described.get("w_bit"))) != 4:
        raise _not_read(f"by {method} to {bits} bits, and 4 are read here")
    group = described.get("group_size", 128)
    if not isinstance(group, int) or (group < 1 and group != -1):
        raise _not_read(f"by {method} in groups of {group}, which is no number of columns")
    return PackedFiles(_file_format(method, described), group, method == "gptq" and bool(described.get("sym")))


def _file_format(method: str, described: dict[str, Any]) -> FileFormat:
    named = (described.get(name) for name in ("checkpoint_format", "format", "version"))
    made = str(next((name for name in named if name), "gptq" if method == "gptq" else "gemm")).lower()
    if method == "awq":
        if made != "gemm":
            raise _not_read(f"in AWQ's version {made}, and gemm is read here")
        return "awq"
    if described.get("is_marlin_format"):  # as AutoGPTQ has said it
        made = "marlin"
    if made not in ("gptq", "gptq_v2"):
        raise _not_read(f"in GPTQ's format {made}, and gptq and gptq_v2 are read here")
    if (words := str(described.get("pack_dtype") or "int32").removeprefix("torch.")) != "int32":
        raise _not_read(f"by gptq into words of {words}, and those of int32 are read here")
    # GPTQModel: patterns of names, each with what differs there; those after `-:` are not quantized.
    if others := sorted(name for name in described.get("dynamic") or {} if not name.startswith("-:")):
        raise _not_read(f"by gptq in another way for some of them ({others[0]}), which is not read here")
    return cast("FileFormat", made)


def _not_read(how: str) -> ConfigError:
    return ConfigError(f"its weights are quantized {how}. {ADVICE}")
