"""How many of the jobs have ended, as a bar on stderr. Nothing where stderr is no terminal.

rich is imported for a bar alone: who asks for none does not wait for it.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Bar(Protocol):
    """Is told of ends."""

    def ended(self, count: int, *, has_failed: bool) -> None:
        """So many more have ended."""


class NoBar:
    """Where nobody looks."""

    def ended(self, count: int, *, has_failed: bool) -> None:
        """Nothing to show."""


@contextlib.contextmanager
def progress_bar(total: int, *, wanted: bool) -> Iterator[Bar]:
    """Shown until the block ends, and left as it is then.  total: of all jobs."""
    if not (wanted and sys.stderr.isatty()):
        yield NoBar()
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text  # noqa: PLC0415

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} jobs/s" if speed else "", no_wrap=True)

    class TimeLeft(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return Text.assemble(super().render(task), "" if task.finished else " left")

    class ShellBar:
        failed = 0

        def ended(self, count: int, *, has_failed: bool) -> None:
            self.failed += count if has_failed else 0
            said = f"{self.failed} failed" if self.failed else ""
            progress.update(task, advance=count, said=said)

    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}", style="red", markup=False),
        Rate(""),
        TimeLeft(elapsed_when_finished=True),
    )
    # What the script prints meanwhile is its own, and goes where it says.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, expand=True) as progress:
        task = progress.add_task("", total=total, said="")
        yield ShellBar()
