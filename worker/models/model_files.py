"""The files of a model folder: which of them hold the weights, and whether each is whole.

Reads JSON, and the headers of safetensors files. Loads no weights, and needs no torch.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import ConfigError

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLED, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_AGAIN = "download it again (`hf download` goes on where it was cut off)"
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Weights:
    """What the safetensors files hold."""

    parameters: int
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """As the header of its file has it."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it: F32, BF16, I32."""


def read_text(path: Path) -> str:
    """Of a text file of a model folder.  Raises ConfigError that names the file."""
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror}):") from error
    except UnicodeDecodeError as error:
        raise _broken(path, f"is no text ({error}):") from error
    if content.startswith(_LFS_POINTER.decode()):
        raise _broken(path, "is a pointer of Git LFS: `git lfs pull` in the folder, or")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder.  Raises ConfigError that names the file."""
    content = read_text(path)
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"is broken or was cut off ({error}):" if content else "is empty:") from error
    if not isinstance(parsed, dict):
        raise _broken(path, "holds no JSON object:")
    return parsed


_INSIDE = ("*/config.json", "snapshots/*/config.json")
"""Of models in a folder of several, and in the cache of the Hub."""


def other_kind(folder: Path) -> str | None:
    """What a folder that is no whole model may be instead, and what to do; None where it is nothing known."""
    if any(folder.glob("*.gguf")):
        return "a GGUF file is for other programs. Take the model's own repository, with *.safetensors"
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter. Merge it into its model (peft: merge_and_unload), and save that"
    if inside := [config.parent for pattern in _INSIDE for config in sorted(folder.glob(pattern))]:
        return f"it is the folder above a model. Give that one, {inside[0]}"
    return None


def read_weights(folder: Path) -> Weights | None:
    """Of the files that transformers would load; None where they are pickled, which are not looked into.

    Raises ConfigError that names the file that is missing, cut off, or no weights at all.
    """
    files = _weight_files(folder)
    if files is None:
        return None
    tensors = {name: tensor for path in files for name, tensor in _tensors(path)}
    if files != [folder / _SINGLE] and (lacking := sorted(_places(folder / INDEX).keys() - tensors.keys())):
        raise _broken(
            folder / INDEX, f"names {len(lacking)} tensors that no file holds, {lacking[0]} the first of them:"
        )
    size_bytes = sum(path.stat().st_size for path in files)
    return Weights(sum(map(_weights_in, tensors, tensors.values())), size_bytes, len(files))


def _weights_in(name: str, tensor: StoredTensor) -> int:
    """Of a matrix of GPTQ or AWQ, eight are in each word; what comes with it is none."""
    if name.endswith((".qzeros", ".scales", ".g_idx")):
        return 0
    return prod(tensor.shape) * (8 if name.endswith(".qweight") and tensor.dtype == "I32" else 1)


def tensors_of(folder: Path) -> dict[str, StoredTensor]:
    """By their names; none where weights are pickled.  Raises ConfigError as `read_weights` does."""
    return {name: tensor for path in _weight_files(folder) or [] for name, tensor in _tensors(path)}


def _weight_files(folder: Path) -> list[Path] | None:
    """In transformers' order of preference.  Source: modeling_utils.py, _get_resolved_checkpoint_files."""
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / INDEX).is_file():
        return _listed(folder / INDEX)
    if (folder / _PICKLED).is_file() or (folder / _PICKLED_INDEX).is_file():
        whole = (folder / _PICKLED).is_file()
        for path in [folder / _PICKLED] if whole else _listed(folder / _PICKLED_INDEX):
            _check_beginning(path)
        return None
    others = sorted(path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    there = f" (there is {others[0]})" if others else ""
    raise ConfigError(
        f"{folder} holds no weights that transformers finds by their name: "
        + (other_kind(folder) or f"neither {_SINGLE} nor {INDEX}{there}. Download the model again")
    )


def _listed(index: Path) -> list[Path]:
    """The files that an index names, which are all there."""
    names = sorted(set(_places(index).values()))
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise _broken(index, f"names {len(absent)} files that are not there, {absent[0]} the first of them:")
    return [index.parent / name for name in names]


def _places(index: Path) -> dict[str, str]:
    """The file of each tensor."""
    content = read_json(index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise _broken(index, "has no weight_map:")
    if not isinstance(content.get("metadata"), dict):  # Source: transformers, utils/hub.py
        raise _broken(index, 'has no metadata, which transformers asks for: write `"metadata": {}` there, or')
    return places


def _tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Of one file, with their names."""
    _check_beginning(path)
    try:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                described = tensors.get_slice(name)
                yield name, StoredTensor(tuple(described.get_shape()), described.get_dtype())
    except SafetensorError as error:
        raise _broken(path, f"is broken or was cut off ({error}):") from error


def _check_beginning(path: Path) -> None:
    """Raises ConfigError for a file that is empty, or stands for one that was not fetched."""
    with path.open("rb") as file:
        beginning = file.read(len(_LFS_POINTER))
    if beginning == _LFS_POINTER:
        raise _broken(path, "is a pointer of Git LFS and no weights: `git lfs pull` in the folder, or")
    if not beginning:
        raise _broken(path, "is empty:")


def _broken(path: Path, fault: str) -> ConfigError:
    return ConfigError(f"{path.name} in {path.parent} {fault} {_AGAIN}")
