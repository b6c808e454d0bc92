"""A look at a model folder: are its files whole? Reads headers, loads nothing, and needs no torch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from producer.broker.findings import Finding, size

INDEX = "model.safetensors.index.json"
_AGAIN = "download it again (`hf download` goes on where it was cut off)"
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Weights:
    """What the safetensors files hold."""

    parameters: int
    size_bytes: int


def check_files(folder: Path) -> tuple[list[Finding], Weights | None]:
    """config.json and weights. None where the weights cannot be read, or are of another kind."""
    findings = [_check_config(folder)]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        findings.append(
            _weights("warning", "*.bin: they are not looked into here, and load slower than safetensors")
        )
        return findings, None
    if fault := next((fault for path in files if (fault := _pointer_fault(path))), None):
        return [*findings, _weights("wrong", fault)], None
    try:
        shapes = {name: shape for path in files for name, shape in _shapes(path)}
        missing = _missing(folder, shapes.keys())
    except (OSError, ValueError, SafetensorError) as error:
        return [*findings, _weights("wrong", f"{error}: {_AGAIN}")], None
    if missing:
        return [*findings, _weights("wrong", f"{missing}: {_AGAIN}")], None
    weights = Weights(sum(map(prod, shapes.values())), sum(path.stat().st_size for path in files))
    said = f"{weights.parameters / 1e6:,.1f}M parameters, {size(weights.size_bytes)}, files: {len(files)}"
    return [*findings, _weights("ok", said)], weights


def _check_config(folder: Path) -> Finding:
    name = "config.json"
    try:
        config: Any = json.loads((folder / name).read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding(name=name, state="wrong", message=f"it is no model's configuration ({error!r}): {_AGAIN}")
    return Finding(name=name, state="ok", message=f"{kind}, in {folder}")


def _weights(state: Any, message: str) -> Finding:
    return Finding(name="weights", state=state, message=message)


def _pointer_fault(path: Path) -> str | None:
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) != _LFS_POINTER:
            return None
    return f"{path.name} is a pointer of Git LFS and no weights: `git lfs pull` in the folder, or `hf download`"


def _shapes(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of a file's tensors.  Raises SafetensorError for one that was cut off."""
    try:
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                yield name, tensors.get_slice(name).get_shape()
    except SafetensorError as error:
        raise SafetensorError(f"{path.name} is broken or was cut off ({error})") from error


def _missing(folder: Path, there: Any) -> str | None:
    """What the index names and the files do not hold."""
    if not (folder / INDEX).is_file():
        return None
    index: Any = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    try:
        places: dict[str, str] = index["weight_map"]
        absent = sorted({file for file in places.values() if not (folder / file).is_file()})
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{INDEX} has no weight_map") from None
    if absent:
        return f"{INDEX} names {len(absent)} files that are not there, {absent[0]} the first of them"
    if lacking := sorted(places.keys() - set(there)):
        return f"{INDEX} names {len(lacking)} tensors that no file holds, {lacking[0]} the first of them"
    return None
