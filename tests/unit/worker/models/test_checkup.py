"""Whether a model folder is whole, by its headers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from worker.models.checkup import check_files
from worker.models.model_files import INDEX, Weights

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two files, with their index."""
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    save_file({"a": np.zeros((2, 3), dtype=np.float32)}, tmp_path / PARTS[0])
    save_file({"b": np.zeros(4, dtype=np.float16)}, tmp_path / PARTS[1])
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": PARTS[0], "b": PARTS[1]}}))
    return tmp_path


def weights_of(folder: Path) -> tuple[str, str, Weights | None]:
    findings, weights = check_files(folder)
    [found] = [finding for finding in findings if finding.name == "weights"]
    return found.state, found.message, weights


def test_a_whole_folder(folder: Path) -> None:
    state, message, weights = weights_of(folder)
    size = sum((folder / part).stat().st_size for part in PARTS)
    assert (state, weights) == ("ok", Weights(parameters=10, size_bytes=size, files=2))
    assert "files: 2" in message


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / PARTS[1]).unlink(), f"files that are not there, {PARTS[1]}"),
        (lambda folder: cut(folder / PARTS[1]), f"{PARTS[1]} in FOLDER is broken or was cut off"),
        (lambda folder: (folder / PARTS[0]).write_bytes(b""), f"{PARTS[0]} in FOLDER is empty"),
        (lambda folder: save_file({"x": np.zeros(1)}, folder / PARTS[1]), "tensors that no file holds, b"),
        (lambda folder: (folder / INDEX).write_text("{}"), "has no weight_map"),
        (lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": 7}}'), "has no weight_map"),
        (lambda folder: (folder / INDEX).write_text('{"weight_map": {}}'), "has no metadata, which transformers"),
        (lambda folder: (folder / INDEX).write_text("{"), f"{INDEX} in FOLDER is broken or was cut off"),
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
    assert said in message.replace(str(folder), "FOLDER")
    assert "download it again" in message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["qwen2-7b.Q4_K_M.gguf"], "a GGUF file is for other programs. Take the model's own repository"),
        (["adapter_config.json", "adapter_model.safetensors"], "it is an adapter. Merge it into its model"),
        (
            ["consolidated.safetensors"],
            f"neither model.safetensors nor {INDEX} (there is cons",
        ),
        (["training_args.bin"], "there is training_args.bin"),
        ([PARTS[0]], f"there is {PARTS[0]}"),
    ],
)
def test_a_folder_of_another_kind(tmp_path: Path, files: list[str], said: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    for name in files:
        (tmp_path / name).touch()
    state, message, weights = weights_of(tmp_path)
    assert (state, weights) == ("wrong", None)
    assert said in message


def test_files_that_transformers_leaves_alone_do_not_count(folder: Path) -> None:
    """Mistral's repositories hold their weights twice."""
    before = weights_of(folder)
    (folder / "consolidated.safetensors").write_bytes((folder / PARTS[0]).read_bytes()[:-1])
    assert weights_of(folder) == before
    save_file({"a": np.zeros(7, dtype=np.float32)}, folder / "model.safetensors")
    assert weights_of(folder)[2] == Weights(7, (folder / "model.safetensors").stat().st_size, 1)


def test_weights_of_another_kind_are_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    state, _, weights = weights_of(tmp_path)
    assert (state, weights) == ("warning", None)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pytorch_model.bin": ""}, "pytorch_model.bin in FOLDER is empty"),
        ({"pytorch_model.bin": "version https://git-lfs.github.com/spec/v1"}, "pointer of Git LFS"),
        ({"pytorch_model.bin.index.json": '{"metadata": {}, "weight_map": {"a": "a.bin"}}'}, "not there, a.bin"),
    ],
)
def test_of_these_the_files_are_there_and_hold_something(tmp_path: Path, files: dict[str, str], said: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    state, message, weights = weights_of(tmp_path)
    assert (state, weights) == ("wrong", None)
    assert said in message.replace(str(tmp_path), "FOLDER")


@pytest.mark.parametrize(("content", "state"), [("{}", None), ('{"eos_token_id": [2, 0', "wrong"), ("", "wrong")])
def test_a_generation_config_is_whole_or_not_there(folder: Path, content: str, state: str | None) -> None:
    (folder / "generation_config.json").write_text(content)
    found = {finding.name: finding.state for finding in check_files(folder)[0]}
    assert found.get("generation_config.json") == state


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\udcff", '{"model_type": 7}'])
def test_a_config_that_is_none(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, errors="surrogateescape")
    findings, _ = check_files(folder)
    assert (findings[0].name, findings[0].state) == ("config.json", "wrong")
