"""A look at a model folder: are its files whole? Reads headers, loads nothing, and needs no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer.broker.findings import Finding, size

from ..errors import ConfigError
from .model_files import Weights, read_json, read_weights


def check_files(folder: Path) -> tuple[list[Finding], Weights | None]:
    """config.json and weights. None where the weights cannot be read, or are of another kind."""
    findings = [_check_config(folder), *_check_generation_config(folder)]
    try:
        weights = read_weights(folder)
    except ConfigError as error:
        return [*findings, _weights("wrong", str(error))], None
    if weights is None:
        said = "*.bin: they are not looked into here, and load slower than safetensors"
        return [*findings, _weights("warning", said)], None
    said = f"{weights.parameters / 1e6:,.1f}M parameters, {size(weights.size_bytes)}, files: {weights.files}"
    return [*findings, _weights("ok", said)], weights


def _check_config(folder: Path) -> Finding:
    name = "config.json"
    try:
        kind = read_json(folder / name).get("model_type")
    except ConfigError as error:
        return Finding(name=name, state="wrong", message=str(error))
    if not isinstance(kind, str):
        return Finding(
            name=name, state="wrong", message=f"it is no model's configuration: it has no model_type ({folder})"
        )
    return Finding(name=name, state="ok", message=f"{kind}, in {folder}")


def _check_generation_config(folder: Path) -> Iterator[Finding]:
    """Without it, answers end as the tokenizer says; with a broken one, transformers would act as without."""
    name = "generation_config.json"
    if (folder / name).is_file():
        try:
            read_json(folder / name)
        except ConfigError as error:
            yield Finding(name=name, state="wrong", message=str(error))


def _weights(state: Any, message: str) -> Finding:
    return Finding(name="weights", state=state, message=message)
