"""A command in a terminal of a given width: what stands on its screen in the end, as text and as pictures."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI
from rich.text import Text

ROWS = 500
"""Higher than any answer: what has scrolled away cannot be looked at."""
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": MONOKAI}
END_S = 60.0


@dataclass(frozen=True, slots=True)
class Capture:
    """What a command has left on the screen."""

    command: str
    columns: int
    lines: list[list[Char]]
    exit_code: int | None
    """None: it did not end, not even after Ctrl-C."""

    @property
    def text(self) -> str:
        """The screen without its colours."""
        return "\n".join("".join(char.data for char in line).rstrip() for line in self.lines) + "\n"

    def faults(self) -> list[str]:
        """What can be seen without eyes."""
        lines = self.text.splitlines()
        found = [f"cut in a word: {lines[at][-30:]!r} {after[:30]!r}" for at, after in enumerate(lines[1:])
                 if _is_cut(lines[at], after, self.columns)]  # fmt: skip
        if "Traceback (most recent call last)" in self.text:
            found.append("a traceback")
        if not self.text.strip():
            found.append("nothing is shown")
        if self.exit_code is None:
            found.append("it does not end")
        return found

    def save(self, stem: Path) -> None:
        """As STEM.txt, STEM.light.svg and STEM.dark.svg."""
        stem.with_suffix(".txt").write_text(f"$ {self.command}\n{self.text}(exit code {self.exit_code})\n")
        for name, theme in THEMES.items():
            console = Console(record=True, width=self.columns, file=StringIO(), legacy_windows=False)
            console.print(f"$ {self.command}", style="bold", markup=False, highlight=False)
            for line in self.lines:
                console.print(_styled(line), soft_wrap=True)
            svg = console.export_svg(title=f"{self.columns} columns, exit code {self.exit_code}", theme=theme)
            stem.with_suffix(f".{name}.svg").write_text(svg)


def capture(
    command: Sequence[str],
    columns: int,
    environment: Mapping[str, str],
    *,
    shown_as: str,
    until: str | None = None,
    limit_s: float = END_S,
) -> Capture:
    """Run a command in a terminal until it ends.

    until: words that it shows, at which it is interrupted by Ctrl-C. limit_s: after which it is, too.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    process = subprocess.Popen(
        command,
        env={**environment, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = pyte.Screen(columns, ROWS)
    stream = pyte.ByteStream(screen)
    deadline, is_interrupted = time.monotonic() + limit_s, False
    try:
        while (data := _read(ours, deadline)) is not None:
            stream.feed(data)
            if not is_interrupted and (
                (until and until in "\n".join(screen.display)) or time.monotonic() > deadline
            ):
                is_interrupted, deadline = True, time.monotonic() + END_S
                process.send_signal(signal.SIGINT)
                os.write(ours, b"\n")  # what it asks then has an answer that is offered
            elif is_interrupted and time.monotonic() > deadline:
                break
        code = _wait(process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return Capture(shown_as, columns, _lines(screen), code)


def _read(terminal: int, deadline: float) -> bytes | None:
    """What has come, or b"" when the time is over; None once the command has closed its terminal."""
    ready, _, _ = select.select([terminal], [], [], max(0.0, min(1.0, deadline - time.monotonic())))
    if not ready:
        return b""
    try:
        return os.read(terminal, 65536) or None
    except OSError:  # Linux' word for the end of a terminal
        return None


def _wait(process: "subprocess.Popen[bytes]") -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(END_S)
    return None


def _lines(screen: pyte.Screen) -> list[list[Char]]:
    lines = [[screen.buffer[row][column] for column in range(screen.columns)] for row in range(screen.lines)]
    while lines and all(char.data == " " for char in lines[-1]):
        lines.pop()
    return lines


def _is_cut(line: str, after: str, columns: int) -> bool:
    """Whether the terminal has broken the line, and not the program: it is full, and a word goes on."""
    return len(line) >= columns and bool(re.match(r"\w", after)) and bool(re.search(r"\w$", line))


def _styled(line: list[Char]) -> Text:
    text = Text()
    for char in line:
        text.append(char.data, _style(char))
    text.rstrip()
    return text


def _style(char: Char) -> Style:
    colors = {"brown": "yellow"}  # the name that pyte has for it
    names = [None if name == "default" else colors.get(name, name) for name in (char.fg, char.bg)]
    color, background = (f"#{name}" if name and re.fullmatch(r"[0-9a-f]{6}", name) else name for name in names)
    if color and color.startswith("bright"):
        color = f"bright_{color.removeprefix('bright').replace('brown', 'yellow')}"
    return Style(
        color=color,
        bgcolor=background,
        bold=char.bold,
        italic=char.italics,
        underline=char.underscore,
        reverse=char.reverse,
    )
