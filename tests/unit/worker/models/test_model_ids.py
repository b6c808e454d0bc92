"""What is said of a model's id, or of a folder, in place of a name; and that what is said works."""

import shlex
from pathlib import Path

import pytest
import yaml

from worker.errors import ConfigError
from worker.models.config_loader import ConfigLoader, find_model, locate_model
from worker.models.model_ids import explain_name

ID = "Qwen/Qwen2-7B-Instruct"


@pytest.mark.parametrize("name", ["tiny", "qwen2_7b", "Qwen2.5-0.5B"])
def test_a_name_needs_no_explanation(name: str) -> None:
    assert explain_name(name, Path("configs/model_paths.yaml")) is None


def test_an_id_gets_its_download_and_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are done as they stand there."""
    monkeypatch.chdir(tmp_path)
    paths = tmp_path / "configs" / "model_paths.yaml"
    paths.parent.mkdir()
    paths.write_text("other: x\n")

    with pytest.raises(ConfigError) as caught:
        locate_model(ID)
    _, command, _, line = str(caught.value).splitlines()

    assert shlex.split(command) == ["hf", "download", ID, "--local-dir", "models/Qwen2-7B-Instruct"]
    assert "--model-path models/Qwen2-7B-Instruct" in str(caught.value)
    assert "--model-name Qwen2-7B-Instruct:" in str(caught.value)
    paths.write_text(paths.read_text() + f"{line.strip()}\n")
    folder = ConfigLoader(paths).folder("Qwen2-7B-Instruct")
    assert folder.resolve() == tmp_path / "models" / "Qwen2-7B-Instruct"
    assert yaml.safe_load(line) == {"Qwen2-7B-Instruct": "../models/Qwen2-7B-Instruct"}


def test_the_line_of_a_file_that_is_elsewhere_is_right_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, paths = tmp_path / "here", tmp_path / "elsewhere" / "configs" / "model_paths.yaml"
    here.mkdir()
    paths.parent.mkdir(parents=True)
    monkeypatch.chdir(here)
    said = explain_name(ID, paths)
    assert said is not None
    paths.write_text(said.splitlines()[-1].strip())
    assert ConfigLoader(paths).folder("Qwen2-7B-Instruct") == here / "models" / "Qwen2-7B-Instruct"


def test_an_id_gets_them_where_there_is_no_file_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("worker.models.config_loader._ROOT", tmp_path)
    with pytest.raises(ConfigError, match=r"add this line to configs/model_paths\.yaml"):
        locate_model(ID)


@pytest.mark.parametrize("name", ["/models/x", "./x", "~/x", "a/b/c"])
def test_a_path_gets_the_option_for_it(name: str) -> None:
    said = explain_name(name, Path("configs/model_paths.yaml"))
    assert said is not None
    assert f"--model-path {name}" in said


def test_a_folder_that_looks_like_an_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    said = explain_name("models/mine", Path("configs/model_paths.yaml"))
    assert said is not None
    assert "--model-path models/mine" in said


# -- a folder that was given itself


@pytest.mark.parametrize("name", [None, "any"])
def test_a_folder_needs_no_file_and_no_name(tmp_path: Path, name: str | None) -> None:
    for part in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / part).touch()
    assert find_model(name, tmp_path, tmp_path / "no-such-file.yaml") == tmp_path


@pytest.mark.parametrize(
    ("files", "said"),
    [(None, "hf download"), ((), "holds no config.json"), (("config.json",), "holds no weights")],
)
def test_a_folder_that_is_no_model(tmp_path: Path, files: tuple[str, ...] | None, said: str) -> None:
    folder = tmp_path / "mine"
    if files is not None:
        folder.mkdir()
        for part in files:
            (folder / part).touch()
    with pytest.raises(ConfigError, match=said):
        find_model(None, folder)


def test_without_either_it_says_so() -> None:
    with pytest.raises(ConfigError, match="no model is named"):
        find_model(None, None)
