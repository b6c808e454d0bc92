"""The model paths file, and `tiny`, which is trained on first use."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.models import save_random_model
from worker.errors import ConfigError
from worker.models import config_loader, tiny_model
from worker.models.config_loader import (
    MODEL_PATHS,
    ConfigLoader,
    find_config_file,
    given_folder,
    locate_model,
    untrained_tiny,
)

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes) -> Path:
        file = tmp_path / "model_paths.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


class TestPaths:
    def test_absolute(self, write, model_folder):
        assert ConfigLoader(write(f"mine: {model_folder}")).model_path("mine") == model_folder

    def test_relative_counts_from_the_file(self, write, tmp_path, monkeypatch):
        monkeypatch.chdir("/")
        assert ConfigLoader(write("mine: models/mine")).folder("mine") == tmp_path / "models" / "mine"

    def test_tilde_is_the_home_folder(self, write, monkeypatch):
        monkeypatch.setenv("HOME", "/home/somebody")
        assert ConfigLoader(write("mine: ~/models/mine")).folder("mine") == Path("/home/somebody/models/mine")

    def test_the_file_that_comes_with_the_project(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/somebody")
        loader = ConfigLoader(ROOT / "configs" / MODEL_PATHS)
        assert loader.names == ("tiny", "qwen2_7b")
        assert loader.folder("tiny") == Path("/home/somebody/.cache/genqueue/tiny")
        assert loader.folder("qwen2_7b") == Path("/home/somebody/models/Qwen2-7B")


class TestWhereFilesAreLookedFor:
    """`configs` in the current folder, then the checkout's; an installed package has no checkout."""

    @pytest.fixture
    def here(self, tmp_path, monkeypatch) -> Path:
        """The current folder, empty."""
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        return tmp_path / "here"

    @pytest.fixture
    def site_packages(self, tmp_path, monkeypatch) -> Path:
        """Where the worker is installed, beside a package of somebody else that is called `configs`."""
        place = self.add(tmp_path / "site-packages", "mine: /of/somebody/else").parents[1]
        monkeypatch.setattr(config_loader, "_ROOT", place)
        return place

    def add(self, folder: Path, content: str) -> Path:
        (folder / "configs").mkdir(parents=True)
        file = folder / "configs" / MODEL_PATHS
        file.write_text(content)
        return file

    def test_the_checkout_from_a_folder_that_is_no_more(self, monkeypatch, tmp_path):
        (gone := tmp_path / "gone").mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert find_config_file("model_paths.yaml") == ROOT / "configs" / "model_paths.yaml"

    def test_the_checkout_from_any_folder(self, here):
        assert find_config_file(MODEL_PATHS) == ROOT / "configs" / MODEL_PATHS

    def test_the_current_folder_comes_first(self, here):
        file = self.add(here, "mine: x")
        assert find_config_file(MODEL_PATHS) == file
        with pytest.raises(ConfigError, match=f"no folder {here}/configs/x"):
            locate_model("mine")

    def test_an_installed_worker_finds_those_of_the_current_folder(self, here, site_packages):
        file = self.add(here, "mine: x")
        assert find_config_file(MODEL_PATHS) == file

    def test_an_installed_worker_without_any_says_where_it_looked(self, here, site_packages):
        assert find_config_file(MODEL_PATHS) is None
        with pytest.raises(ConfigError) as caught:
            locate_model("mine")
        assert f"looked for {here}/configs/{MODEL_PATHS}: write it" in str(caught.value)
        assert "GENQUEUE_MODEL_PATHS" in str(caught.value)

    def test_an_installed_worker_without_any_knows_tiny(self, here, site_packages, monkeypatch):
        """Else the first model of whoever has installed it would want a file."""
        monkeypatch.setenv("HOME", str(here))
        assert untrained_tiny()
        folder = here / ".cache" / "genqueue" / "tiny"
        folder.mkdir(parents=True)
        assert not untrained_tiny()
        with pytest.raises(ConfigError, match=f"{folder} holds no config.json. Delete the folder"):
            locate_model("tiny")

    def test_the_same_place_is_named_once(self, monkeypatch):
        monkeypatch.chdir(ROOT)
        assert config_loader.config_files(MODEL_PATHS) == [ROOT / "configs" / MODEL_PATHS]


class TestBadFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no model paths file .*none.yaml.*--model-paths"):
            ConfigLoader(tmp_path / "none.yaml")

    def test_a_folder_instead(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            ConfigLoader(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("mine: [unclosed", "not valid YAML"),
            ("mine: !!python/object/apply:os.system ['true']", "not valid YAML"),
            (b"mine: \xff\xfe", "cannot be read"),
            ("", "not a mapping"),
            ("- a\n- b", "not a mapping"),
            ("mine:", "folder of 'mine' is not a path but None"),
            ("mine: {path: x}", "folder of 'mine' is not a path"),
            ("mine: ''", "folder of 'mine' is not a path"),
            ("7: /models/seven", "model name '7' is not valid"),
            ("mine.high: /models/mine", "model name 'mine.high' is not valid"),
        ],
    )
    def test_malformed(self, write, content, message):
        with pytest.raises(ConfigError, match=message) as caught:
            ConfigLoader(write(content))
        assert "model_paths.yaml" in str(caught.value)


class TestHomeThatIsNone:
    """Containers run under ids that no passwd file knows, and HOME need not be set."""

    def test_is_named_to_whoever_asks_for_it(self, write):
        loader = ConfigLoader(write("mine: ~nobody-of-that-name/x"))
        with pytest.raises(ConfigError, match=r"model_paths.yaml: the folder of 'mine'.*write an absolute path"):
            loader.folder("mine")

    def test_is_named_where_the_folder_is_given_itself(self):
        with pytest.raises(ConfigError, match=r"'~nobody-of-that-name/x', and there is no such home folder"):
            config_loader.given_folder(Path("~nobody-of-that-name/x"))

    def test_does_not_keep_another_model_from_being_found(self, write, model_folder):
        """Every line was resolved, and the first without a home stopped the worker."""
        loader = ConfigLoader(write(f"other: ~nobody-of-that-name/x\nmine: {model_folder}"))
        assert loader.model_path("mine") == model_folder
        assert loader.names == ("other", "mine")


class TestBadModels:
    def test_an_unknown_name_lists_the_known_ones(self, write):
        with pytest.raises(
            ConfigError, match=r"'other' is not in .*which knows: a, b. Add a line `other: FOLDER`"
        ):
            ConfigLoader(write("b: /b\na: /a")).model_path("other")

    def test_a_missing_folder(self, write, tmp_path):
        with pytest.raises(ConfigError, match=f"no folder {tmp_path}/gone. Download the model there"):
            ConfigLoader(write("mine: gone")).model_path("mine")

    @pytest.mark.parametrize(
        ("files", "lacks"),
        [
            (("model.safetensors", "tokenizer.json"), "no config.json"),
            (("config.json", "tokenizer.json"), "no weights"),
            (("config.json", "model.safetensors"), "no tokenizer"),
        ],
    )
    def test_a_folder_that_lacks_a_part(self, write, tmp_path, files, lacks):
        (tmp_path / "mine").mkdir()
        for name in files:
            (tmp_path / "mine" / name).touch()
        with pytest.raises(ConfigError, match=f"{lacks}.*Download the model again, or correct its line"):
            ConfigLoader(write("mine: mine")).model_path("mine")

    @pytest.mark.parametrize("weights", ["model-00001-of-00004.safetensors", "pytorch_model.bin"])
    @pytest.mark.parametrize("tokenizer", ["tokenizer.json", "vocab.json"])
    def test_a_whole_folder_in_any_usual_form(self, write, tmp_path, weights, tokenizer):
        (tmp_path / "mine").mkdir()
        for name in ("config.json", weights, tokenizer):
            (tmp_path / "mine" / name).touch()
        assert ConfigLoader(write("mine: mine")).model_path("mine") == tmp_path / "mine"


class TestGivenFolders:
    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "model.gguf").touch()
        with pytest.raises(ConfigError, match=r"model.gguf is a file, .*A GGUF file is none"):
            given_folder(tmp_path / "model.gguf")

    @pytest.mark.parametrize("place", ["Qwen2-7B", "snapshots/0a1b2c"])
    def test_the_folder_above_a_model_names_it(self, tmp_path, place):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").touch()
        with pytest.raises(ConfigError, match=f"above a model. Give that one, {tmp_path}/{place}, or correct"):
            given_folder(tmp_path)


class TestTiny:
    """Training is replaced by what it leaves behind: a folder with a model's files."""

    @pytest.fixture
    def trained(self, monkeypatch):
        folders = []

        def train(folder: Path, *, progress: bool) -> None:
            folders.append(folder)
            for name in ("config.json", "model.safetensors", "tokenizer.json"):
                (folder / name).touch()

        monkeypatch.setattr(tiny_model, "train_tiny_model", train)
        return folders

    def test_is_trained_on_first_use_and_then_kept(self, write, tmp_path, trained):
        paths = write("tiny: cache/deep/tiny")
        assert locate_model("tiny", paths) == tmp_path / "cache" / "deep" / "tiny"
        assert locate_model("tiny", paths) == tmp_path / "cache" / "deep" / "tiny"
        assert len(trained) == 1

    def test_is_trained_beside_its_folder_which_appears_whole(self, write, tmp_path, trained):
        locate_model("tiny", write("tiny: tiny"))
        assert trained == [tmp_path / "tiny.partial"]
        assert not (tmp_path / "tiny.partial").exists()

    def test_what_a_killed_training_left_is_swept_away(self, write, tmp_path, trained):
        (tmp_path / "tiny.partial").mkdir()
        (tmp_path / "tiny.partial" / "half.safetensors").touch()
        locate_model("tiny", write("tiny: tiny"))
        assert not (tmp_path / "tiny" / "half.safetensors").exists()

    def test_a_failed_training_leaves_no_folder_and_can_be_repeated(self, write, tmp_path, trained, monkeypatch):
        paths = write("tiny: tiny")
        with monkeypatch.context() as broken:
            broken.setattr(tiny_model, "train_tiny_model", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                locate_model("tiny", paths)
        assert not (tmp_path / "tiny").exists()
        assert locate_model("tiny", paths).is_dir()

    def test_two_at_once_train_it_once(self, write, tmp_path, trained, monkeypatch):
        """The first's training waits here until the second is at the lock that the first holds."""
        paths = write("tiny: tiny")
        first_trains, second_is_at_lock = threading.Event(), threading.Event()
        train, flock = tiny_model.train_tiny_model, fcntl.flock

        def watched_flock(*args) -> None:
            if first_trains.is_set():
                second_is_at_lock.set()
            flock(*args)

        def slow(folder: Path, *, progress: bool) -> None:
            first_trains.set()
            assert second_is_at_lock.wait(60)
            train(folder, progress=progress)

        monkeypatch.setattr(fcntl, "flock", watched_flock)
        monkeypatch.setattr(tiny_model, "train_tiny_model", slow)
        found = []
        threads = [threading.Thread(target=lambda: found.append(locate_model("tiny", paths))) for _ in range(2)]
        threads[0].start()
        assert first_trains.wait(60)
        threads[1].start()
        for thread in threads:
            thread.join(60)
        assert found == [tmp_path / "tiny"] * 2
        assert len(trained) == 1

    def test_another_name_is_never_trained(self, write, trained):
        with pytest.raises(ConfigError, match="no folder"):
            locate_model("mine", write("mine: mine\ntiny: tiny"))
        assert trained == []

    def test_a_broken_folder_may_be_deleted(self, write, tmp_path, trained):
        (tmp_path / "tiny").mkdir()
        with pytest.raises(ConfigError, match="Delete the folder: it is made again"):
            locate_model("tiny", write("tiny: tiny"))

    def test_a_folder_that_cannot_be_written(self, write, trained):
        with pytest.raises(ConfigError, match=r"cannot be kept in /dev/null/tiny.*can be written"):
            locate_model("tiny", write("tiny: /dev/null/tiny"))


def test_importing_brings_no_torch():
    code = "import sys, worker.models.config_loader; assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
