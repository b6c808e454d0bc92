"""Our own modules as processes: the current folder is a place for them only where it is one for us."""

import subprocess
import sys
from pathlib import Path

import pytest

from producer.broker.child import module_command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which holds a module and is none of sys.path's."""
    (tmp_path / "strange_module.py").write_text("print('strange')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in {"", str(Path.cwd())}])
    return tmp_path


def runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).stdout == b"strange\n"


def test_a_module_of_the_current_folder_is_none_of_ours(here: Path) -> None:
    assert not runs(module_command("strange_module"))


@pytest.mark.parametrize("place", ["", "."])
def test_it_is_where_we_are_found_there_ourselves(here: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.syspath_prepend(place and str(here))
    assert runs(module_command("strange_module"))


def test_arguments_are_handed_on(here: Path) -> None:
    assert module_command("worker", "run", "--device", "cpu")[-4:] == ["worker", "run", "--device", "cpu"]
