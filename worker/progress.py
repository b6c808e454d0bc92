"""Progress of what takes long at a start: a bar on a terminal, else a line now and then. Always on stderr.

Where the process logs, the lines are of its log, and in JSON there is no bar.
"""

import logging
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TaskProgressColumn, TextColumn, TimeRemainingColumn

from . import logs

logger = logging.getLogger(__name__)

ReportProgress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and of how much; a total of 0 where nobody knows."""

LINES_A_STAGE = 4


def no_progress(stage: str, done: int, total: int) -> None:
    """For whoever does not want to know."""


class ShownProgress:
    """A ReportProgress for people.  Use it as a context manager: the bar goes when the block ends."""

    def __init__(self, *, visible: bool = True) -> None:
        self._console = Console(stderr=True)
        self._visible = visible
        self._bar: Bar | None = None
        self._stage: str | None = None
        self._share = 0

    def __enter__(self) -> "ShownProgress":
        if self._visible and self._console.is_terminal and logs.format_in_use() != "json":
            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show it."""
        if self._bar is not None:
            if stage != self._stage:
                if self._bar.tasks and not self._bar.tasks[-1].finished:  # nobody knew how much of it there was
                    self._bar.update(self._bar.tasks[-1].id, completed=1, total=1)
                self._bar.add_task(stage, total=total or None)
            self._bar.update(self._bar.tasks[-1].id, completed=done, total=total or None)
        elif self._visible:
            self._print(stage, LINES_A_STAGE * done // (total or 1))
        self._stage = stage

    def _print(self, stage: str, share: int) -> None:
        if (stage, share) != (self._stage, self._share):
            line = f"{stage}: {100 * share // LINES_A_STAGE} %" if share else f"{stage} ..."
            log_format = logs.format_in_use()
            # People wait for it at any level; a reader of JSON has said by the level what it wants.
            if log_format == "json" or (log_format == "text" and logger.isEnabledFor(logging.INFO)):
                logger.info(line)
            else:
                self._console.print(line)
        self._share = share
