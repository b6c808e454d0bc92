"""How far a batch is: a bar on a terminal, and a line now and then in a log."""

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ..printable import printable
from .answers import Answer

LOG_EVERY_S = 10.0


class Tally:
    """What is counted of a run.  total: rows of the input, None where nobody knows; before: had their answer."""

    def __init__(self, total: int | None, before: int, failed_before: int) -> None:
        self.total = total
        self.before = before
        self.failed = failed_before
        self.answered = 0
        self.tokens = 0
        self._began = time.monotonic()

    def count(self, answer: Answer) -> None:
        """A row that was written."""
        self.answered += 1
        self.failed += answer.failed
        self.tokens += answer.tokens

    @property
    def rows(self) -> int:
        """Rows in the output."""
        return self.before + self.answered

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return max(time.monotonic() - self._began, 1e-9)

    @property
    def rows_per_s(self) -> float:
        """Of this run."""
        return self.answered / self.seconds

    def summary(self) -> str:
        """At the end."""
        before = f", {self.before:,} of them before" if self.before else ""
        figures = f"; {self.tokens:,} tokens in {clock(self.seconds)}, {self.rows_per_s:.1f} rows/s"
        return f"{self.rows:,} rows{before}: {self.failed:,} failed{figures if self.answered else ''}"

    @property
    def rows_of(self) -> str:
        """How many of how many."""
        return f"{self.rows:,}" + ("" if self.total is None else f" of {self.total:,}") + " rows"

    def describe(self) -> str:
        """For a log."""
        parts = [
            self.rows_of,
            f"{self.failed:,} failed",
            f"{self.tokens:,} tokens",
            f"{self.rows_per_s:.1f} rows/s",
        ]
        if self.total is not None and self.answered:
            left_s = (self.total - self.rows) / self.rows_per_s
            parts.append(f"{clock(left_s)} left")
        return ", ".join(parts)


class Display(Protocol):
    """What a run is shown on."""

    def update(self) -> None:
        """The tally has changed, or time has passed."""

    def say(self, text: str) -> None:
        """A line for people."""


class LogLines:
    """Where stderr is no terminal."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally, self._console = tally, console
        self._next = time.monotonic() + LOG_EVERY_S

    def update(self) -> None:
        """A line, where the last was long ago."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_EVERY_S
            self.say(self._tally.describe())

    def say(self, text: str) -> None:
        """As `Display.say`: one line, however long."""
        self._console.print(Text(printable(text)), soft_wrap=True)


class Bar:
    """On a terminal."""

    def __init__(self, tally: Tally, progress: Progress) -> None:
        self._tally, self._progress = tally, progress
        self._task = progress.add_task("", total=tally.total, completed=tally.before, tally=tally)
        self._shown = 0

    def update(self) -> None:
        """Move it."""
        self._progress.update(self._task, advance=self._tally.answered - self._shown)
        self._shown = self._tally.answered

    def say(self, text: str) -> None:
        """Above the bar."""
        self._progress.console.print(Text(printable(text)))


@contextlib.contextmanager
def display(tally: Tally) -> Iterator[Display]:
    """For as long as the block runs."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield LogLines(tally, console)
        return
    whole = Column(no_wrap=True)  # the bar is what gets shorter
    columns = (
        _Rows(whole.copy()),
        BarColumn(bar_width=None),
        _Figures(whole.copy()),
        _Left(table_column=whole.copy()),
        _Failed(whole.copy()),
    )
    with Progress(*columns, console=console, expand=True, redirect_stdout=False) as progress:
        yield Bar(tally, progress)


def clock(seconds: float) -> str:
    """As 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def short(number: int) -> str:
    """At most six characters: 99,999, 123k, 12.3M."""
    for limit, size, unit in ((100_000, 1, ""), (1_000_000, 1_000, "k"), (1_000_000_000, 1_000_000, "M")):
        if number < limit:
            return f"{number:,}" if size == 1 else f"{number / size:.3g}{unit}"
    return f"{number / 1e9:.3g}G"


class _Rows(ProgressColumn):
    def render(self, task: Task) -> Text:
        """How many of how many."""
        tally: Tally = task.fields["tally"]
        return Text(f"{tally.rows:,}" + ("" if tally.total is None else f"/{tally.total:,}"), no_wrap=True)


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Speed and tokens."""
        tally: Tally = task.fields["tally"]
        speed = task.finished_speed or task.speed or tally.rows_per_s
        return Text(f"{speed:.{0 if speed >= 100 else 1}f} rows/s, {short(tally.tokens)} tokens,", no_wrap=True)


class _Left(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        """How much longer. Where no row was left to begin with, rich has no speed and no end."""
        is_done = task.total is not None and task.completed >= task.total
        return Text("done,") if is_done else Text.assemble(super().render(task), " left,")


class _Failed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Rows that have no answer."""
        tally: Tally = task.fields["tally"]
        return Text(f"{tally.failed:,} failed", style="red" if tally.failed else "", no_wrap=True)
