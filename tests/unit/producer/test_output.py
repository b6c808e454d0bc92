"""Where commands write: a message for people is broken between words on a terminal, and nowhere else."""

import io
import sys

import pytest

from producer.commands.output import say

MESSAGE = "Redis cannot be used: " + "check the URL and that the server runs. " * 5


class Terminal(io.StringIO):
    """A stderr that is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_terminal_gets_whole_words(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """It cut them at its edge."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    say(MESSAGE)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert " ".join(lines).split() == MESSAGE.split()


def test_anybody_else_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(MESSAGE)
    assert capsys.readouterr().err == f"{MESSAGE}\n"


def test_it_is_text_and_no_order_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("pip install 'genqueue[worker]' [/b] :smile: \x1b[2J")
    assert capsys.readouterr().err == "pip install 'genqueue[worker]' [/b] :smile: \ufffd[2J\n"
