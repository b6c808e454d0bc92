"""What `make` says while it sets up: pip's steps, a line each, and how far it is."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

PIP_SAYS = """\
Obtaining file:///checkout
  Installing build dependencies: started
Collecting redis[hiredis]<9,>=8.1 (from genqueue==0.1.0)
  Obtaining dependency information for redis from https://files.pythonhosted.org/redis-8.1.0-py3-none-any.whl.metadata
  Downloading redis-8.1.0-py3-none-any.whl.metadata (12 kB)
Collecting torch>=2.11 (from genqueue==0.1.0)
  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (30 kB)
Using cached redis-8.1.0-py3-none-any.whl (300 kB)
Downloading https://download.pytorch.org/whl/cpu/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.1 MB)
Installing collected packages: redis, torch, genqueue
Successfully installed genqueue-0.1.0 redis-8.1.0 torch-2.13.0
"""


@pytest.fixture(scope="module")
def set_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("set_up", ROOT / ".ci" / "set_up.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment whose python is a script that says what pip says."""
    (tmp_path / "bin").mkdir()
    return tmp_path


def play(environment: Path, text: str, exit_code: int = 0) -> None:
    (environment / "said").write_text(text)
    python = environment / "bin" / "python"
    python.write_text(f"#!/bin/sh\ncat {environment}/said\nexit {exit_code}\n")
    python.chmod(0o755)


def test_what_is_large_is_a_line_and_all_is_counted(
    set_up: ModuleType, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(environment, PIP_SAYS)
    assert set_up.install(environment, 100, set_up.Progress()) == 0
    assert [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "asking for what is needed",
        "fetched   2 of about 100: torch 2.13.0, 190.1 MB",
        "installing 3 packages",
        "done",
    ]


def test_what_pip_says_of_a_failure_is_shown(
    set_up: ModuleType, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(environment, "Collecting torch\nERROR: No matching distribution found for torch\n", exit_code=1)
    assert set_up.install(environment, 100, set_up.Progress()) == 1
    out = capsys.readouterr().out
    assert "pip has failed, exit code 1" in out
    assert "ERROR: No matching distribution found for torch" in out


def test_a_step_that_takes_its_time_is_said_again_with_what_has_come_of_it(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(set_up.time, "monotonic", lambda: now[0])
    progress = set_up.Progress()
    progress.step("installing", lambda: "7 so far")
    now[0] = set_up.TICK_S - 0.1
    progress.tick()
    assert capsys.readouterr().out.count("\n") == 1
    now[0] = set_up.TICK_S
    progress.tick()
    assert capsys.readouterr().out == "     4 s  installing ... 7 so far\n"


def test_a_small_step_is_said_only_where_nothing_else_is(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(set_up.time, "monotonic", lambda: now[0])
    progress = set_up.Progress()
    progress.step("found 1", aloud=False)
    assert capsys.readouterr().out == ""
    now[0] = set_up.TICK_S
    progress.tick()
    assert capsys.readouterr().out == "     4 s  found 1\n"


def test_the_count_is_that_of_the_constraints(set_up: ModuleType) -> None:
    assert set_up.pinned(ROOT / "constraints.txt") > 50
