"""Our own modules as processes: the current folder is a place for them only where it is one for us.

And processes that end with us: each holds the writing end of the parent's stdout, which is at its end when all of
them are gone.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from producer.broker import tied
from producer.broker.child import module_command, tied_command

TIMEOUT_S = 60
CHILD = "print('here', flush=True); import time; time.sleep(600)"
LOOKING = """
import os, signal, sys
from producer.broker import tied
if os.fork() == 0:
    tied.send_after(int(sys.argv[1]), signal.SIGTERM)
    os._exit(0)
"""
PARENT = """
import os, subprocess, sys
from producer.broker.child import tied_command
child = [sys.executable, "-c", sys.argv[2]]
subprocess.Popen(tied_command(child) if sys.argv[1] == "tied" else [*child, str(os.getpid())]).wait()
"""


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


def ours(*command: str) -> subprocess.Popen[str]:
    """A program that finds our modules, and has said `here`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("how", "child"), [("tied", CHILD), ("looking", LOOKING + CHILD)])
def test_a_process_that_is_killed_takes_along_what_it_has_started(how: str, child: str) -> None:
    parent = ours(sys.executable, "-c", PARENT, how, child)
    parent.kill()
    parent.wait()  # else it is still to be seen
    parent.communicate(timeout=TIMEOUT_S)


def test_one_whose_parent_has_died_before_does_not_begin() -> None:
    command = [sys.executable, "-IS", tied.__file__, "1", "15", sys.executable, "-c", "print('here')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "was to end with process 1" in done.stderr


def test_a_thread_that_may_end_early_is_tied_to_nothing() -> None:
    with ThreadPoolExecutor() as other:
        assert other.submit(tied_command, ["valkey-server"]).result() == ["valkey-server"]
