"""From a model name to a model folder, by configs/model_paths.yaml; or from a folder that was given itself.

Knows the file's form and what a folder must hold; loads no model, and imports torch only to train `tiny` on
its first use.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from producer.contract import InvalidRequest
from producer.contract.keys import check_model_name

from ..errors import ConfigError
from ..extras import worker_extra
from ..progress import ShownProgress
from .model_files import other_kind
from .model_ids import explain_name

MODEL_PATHS = "model_paths.yaml"
TINY = "tiny"
"""The name of the model that is trained on first use, into the folder that the file gives for it."""
TINY_FOLDER = "~/.cache/genqueue/tiny"
"""Where there is no file, as with a worker that was installed and runs anywhere: the first model needs none."""

_ROOT = Path(__file__).resolve().parents[2]
_FORM = "it maps a model's name to its folder, one a line, as in `qwen2_7b: ~/models/Qwen2-7B`"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
_PARTS = {
    "config.json": ("config.json",),
    "weights (*.safetensors or *.bin)": ("*.safetensors", "*.bin"),
    f"tokenizer ({', '.join(_TOKENIZERS)})": _TOKENIZERS,
}


def config_files(name: str) -> list[Path]:
    """Where a file of that name is looked for when nobody says where it is: `configs` here, then the checkout's.

    An installed worker has no checkout: what lies beside it are other packages, and their `configs` is not ours.
    """
    folders = [_ROOT] if (_ROOT / "pyproject.toml").is_file() else []
    with suppress(FileNotFoundError):  # a deployment has put another folder in its place
        folders.insert(0, Path.cwd())
    return list(dict.fromkeys(folder / "configs" / name for folder in folders))


def find_config_file(name: str) -> Path | None:
    """The first of those places that has the file."""
    return next((place for place in config_files(name) if place.is_file()), None)


class ConfigLoader:
    """The model paths file: `~` stands for the home folder, and a relative path counts from the file."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; None: there is none, and tiny alone is known.

        Raises ConfigError when it is missing, is not YAML, or has another form.
        """
        self._file = path or Path("configs", MODEL_PATHS)
        entries = {TINY: TINY_FOLDER} if path is None else _read_mapping(path)
        self._folders = dict(self._entry(name, folder) for name, folder in entries.items())
        """As the file has them: only the one that is asked for is looked at as a path."""

    @property
    def names(self) -> tuple[str, ...]:
        """The models that the file knows."""
        return tuple(self._folders)

    def folder(self, name: str) -> Path:
        """Where the file says that the model is, there or not.

        Raises ConfigError for a name it does not know, and for a `~` that stands for nothing here.
        """
        if name not in self._folders:
            known = ", ".join(sorted(self._folders)) or "none"
            if explanation := explain_name(name, self._file):
                raise ConfigError(explanation)
            raise ConfigError(
                f"model {name!r} is not in {self._file}, which knows: {known}. Add a line `{name}: FOLDER`"
            )
        try:
            return self._file.parent / Path(self._folders[name]).expanduser()
        except RuntimeError as error:
            raise ConfigError(
                f"{self._file}: the folder of {name!r} is {self._folders[name]!r}, and {error}: write an absolute "
                "path, or set HOME"
            ) from None

    def model_path(self, name: str) -> Path:
        """The folder of a model that can be loaded.

        Raises ConfigError when the name is unknown, or its folder is missing or lacks a part of a model.
        """
        folder = self.folder(name)
        if not folder.is_dir():
            raise ConfigError(
                f"model {name!r}: there is no folder {folder}. Download the model there, or correct its line in "
                f"{self._file}"
            )
        if lacking := missing_part(folder):
            again = "Delete the folder: it is made again" if name == TINY else "Download the model again"
            remedy = other_kind(folder) or again
            raise ConfigError(
                f"model {name!r}: {folder} holds no {lacking}. {remedy}, or correct its line in {self._file}"
            )
        return folder

    def _entry(self, name: object, folder: object) -> tuple[str, str]:
        try:
            known_name = check_model_name(name)  # type: ignore[arg-type]  # it checks the type, too
        except InvalidRequest as error:
            raise ConfigError(f"{self._file}: {error}") from None
        if not isinstance(folder, str) or not folder:
            raise ConfigError(f"{self._file}: the folder of {name!r} is not a path but {folder!r}: {_FORM}")
        return known_name, folder


def missing_part(folder: Path) -> str | None:
    """What a model folder must hold, and this one does not; None where it is whole by its names."""
    for what, patterns in _PARTS.items():
        if not any(found.is_file() for pattern in patterns for found in folder.glob(pattern)):
            return what
    return None


def expanded(folder: Path) -> Path:
    """With a home folder for a `~`.  Raises ConfigError where it stands for nothing here."""
    try:
        return folder.expanduser()
    except RuntimeError:
        raise ConfigError(
            f"the model folder is {str(folder)!r}, and there is no such home folder: write an absolute path, or "
            "set HOME"
        ) from None


def given_folder(folder: Path) -> Path:
    """A folder that was named itself, as one that can be loaded.  Raises ConfigError that says what it lacks."""
    folder = expanded(folder)
    if folder.is_file():
        raise ConfigError(
            f"{folder} is a file, and a model is a folder with config.json, *.safetensors and tokenizer.json: "
            "give that as --model-path. A GGUF file is none: take the model's own repository"
        )
    if not folder.is_dir():
        raise ConfigError(
            f"there is no model folder {folder}: correct --model-path, or download a model there, as in "
            f"`hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir {folder}`"
        )
    if lacking := missing_part(folder):
        remedy = other_kind(folder) or "download the model again"
        raise ConfigError(f"{folder} holds no {lacking}: {remedy}, or correct --model-path")
    return folder


def find_model(
    name: str | None, folder: Path | None, model_paths: Path | None = None, *, progress: bool = True
) -> Path:
    """The folder that was given, else that of the name, ready to be loaded: as `given_folder`, `locate_model`."""
    if folder is not None:
        return given_folder(folder)
    if name is None:
        raise ConfigError("no model is named: give its name in the model paths file, or its folder")
    return locate_model(name, model_paths, progress=progress)


def locate_model(name: str, model_paths: Path | None = None, *, progress: bool = True) -> Path:
    """The folder of a model, ready to be loaded. Trains `tiny` if its folder does not exist yet (about 20 s).

    `model_paths`: the model paths file; None looks in the places of `config_files`.
    `progress` shows a bar on stderr while training.  Raises ConfigError as ConfigLoader does.
    """
    loader = ConfigLoader(model_paths or _default_model_paths(name))
    if name == TINY and not loader.folder(name).exists():
        _train_into(loader.folder(name), progress=progress)
    return loader.model_path(name)


def untrained_tiny(model_paths: Path | None = None) -> bool:
    """Whether `tiny` is still to be trained.  Raises ConfigError as ConfigLoader does."""
    return not ConfigLoader(model_paths or _default_model_paths(TINY)).folder(TINY).exists()


def _default_model_paths(name: str) -> Path | None:
    found = find_config_file(MODEL_PATHS)
    if found or name == TINY:
        return found
    if explanation := explain_name(name, Path("configs", MODEL_PATHS)):
        raise ConfigError(explanation)
    raise ConfigError(
        f"there is no model paths file; looked for {' and '.join(map(str, config_files(MODEL_PATHS)))}: write it, "
        f"or name another with --model-paths or GENQUEUE_MODEL_PATHS; {_FORM}. One model needs none: --model-path "
        "FOLDER"
    )


def _train_into(folder: Path, *, progress: bool) -> None:
    """Train `tiny` so that `folder` appears whole or not at all, and once, however many processes want it."""
    with worker_extra(), ShownProgress(visible=progress) as shown:
        shown("importing torch", 0, 0)
        from .tiny_model import train_tiny_model  # noqa: PLC0415 - brings torch, which most uses do without

    partial = folder.with_name(folder.name + ".partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(folder.name + ".lock")):
            if folder.exists():
                return  # another process was first
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir()
            train_tiny_model(partial, progress=progress)
            partial.rename(folder)
    except OSError as error:
        raise ConfigError(
            f"the tiny model cannot be kept in {folder}: {error}. Give `{TINY}` a folder that can be written"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process ends, however it ends
        yield


def _read_mapping(path: Path) -> dict[object, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no model paths file {path}: write it, or name another with --model-paths or "
            f"GENQUEUE_MODEL_PATHS; {_FORM}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the model paths file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the model paths file {path} is not valid YAML: {error}; {_FORM}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"the model paths file {path} is not a mapping: {_FORM}")
    return content
