"""Whether a model folder is whole, by its headers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from worker.models.checkup import INDEX, Weights, check_files

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two files, with their index."""
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    save_file({"a": np.zeros((2, 3), dtype=np.float32)}, tmp_path / PARTS[0])
    save_file({"b": np.zeros(4, dtype=np.float16)}, tmp_path / PARTS[1])
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": PARTS[0], "b": PARTS[1]}}))
    return tmp_path


def weights_of(folder: Path) -> tuple[str, str, Weights | None]:
    findings, weights = check_files(folder)
    [found] = [finding for finding in findings if finding.name == "weights"]
    return found.state, found.message, weights


def test_a_whole_folder(folder: Path) -> None:
    state, message, weights = weights_of(folder)
    size = sum((folder / part).stat().st_size for part in PARTS)
    assert (state, weights) == ("ok", Weights(parameters=10, size_bytes=size))
    assert "files: 2" in message


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / PARTS[1]).unlink(), f"files that are not there, {PARTS[1]}"),
        (lambda folder: cut(folder / PARTS[1]), f"{PARTS[1]} is broken or was cut off"),
        (lambda folder: (folder / PARTS[0]).write_bytes(b""), f"{PARTS[0]} is broken or was cut off"),
        (lambda folder: save_file({"x": np.zeros(1)}, folder / PARTS[1]), "tensors that no file holds, b"),
        (lambda folder: (folder / INDEX).write_text("{}"), "has no weight_map"),
        (lambda folder: (folder / INDEX).write_text("{"), "download it again"),
        (
            lambda folder: (folder / PARTS[0]).write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
            ),
            "pointer of Git LFS",
        ),
    ],
)
def test_a_folder_that_is_not_whole(folder: Path, spoil, said: str) -> None:
    spoil(folder)
    state, message, weights = weights_of(folder)
    assert (state, weights) == ("wrong", None)
    assert said in message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_weights_of_another_kind_are_not_looked_into(folder: Path) -> None:
    for part in PARTS:
        (folder / part).unlink()
    (folder / "pytorch_model.bin").touch()
    state, _, weights = weights_of(folder)
    assert (state, weights) == ("warning", None)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\udcff"])
def test_a_config_that_is_none(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, errors="surrogateescape")
    findings, _ = check_files(folder)
    assert (findings[0].name, findings[0].state) == ("config.json", "wrong")
