"""The bar of `gather(progress=True)`: on a terminal alone, and whole at 80 columns."""

import contextlib
import io
import re
import subprocess
import sys

import pytest
from rich.control import strip_control_codes

from producer import Producer, gather
from producer.progress_bar import progress_bar
from tests.scripted_worker import ScriptedWorker


class Screen(io.StringIO):
    """Takes what is written, and says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def last_line(self) -> str:
        """As it stands there in the end."""
        text = strip_control_codes(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue().replace("\r", "\n")))
        return [line for line in text.splitlines() if line.strip()][-1]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    return Screen()


def test_the_bar_counts_ends_and_failures(screen: Screen, producer: Producer, worker: ScriptedWorker) -> None:
    handles = producer.submit_many(["a", "b", "c"], model="tiny")
    handles[1].cancel()
    worker.play("a")
    worker.play("a")

    with contextlib.redirect_stderr(screen):
        gather(handles, progress=True, return_exceptions=True)

    assert "3/3" in screen.last_line
    assert "1 failed" in screen.last_line


def test_the_bar_is_one_line_at_80_columns(screen: Screen) -> None:
    with contextlib.redirect_stderr(screen), progress_bar(100_000, wanted=True) as bar:
        bar.ended(90_000, has_failed=True)

    assert len(screen.last_line) <= 80
    assert "90000/100000" in screen.last_line
    assert "90000 failed" in screen.last_line


def test_where_stderr_is_no_terminal_nothing_is_shown(
    producer: Producer, worker: ScriptedWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = producer.submit("a", model="tiny")
    worker.play("a")

    gather([handle], progress=True)

    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_rich_is_imported_for_a_bar_alone() -> None:
    code = "import sys; from producer import gather; gather([], progress=True); print('rich' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ran.stdout == "False\n"
