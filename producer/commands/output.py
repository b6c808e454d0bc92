"""Where commands write: stdout carries the answer, the job id or JSON; all that is for people goes to stderr."""

import logging
import sys

import click

from ..contract import GenqueueError
from ..printable import printable

EXIT_JOB_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NO_BROKER = 3
EXIT_NOT_NOW = 4
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as for any other program before `| head`


class ReaderGone(Exception):
    """Whoever read our stdout has gone, as `| head` does. click would call a BrokenPipeError exit code 1."""


class NotWritten(GenqueueError):
    """stdout takes no more: a disk that is full, say."""


def show(text: str | bytes) -> None:
    """Write a part of the answer to stdout, at once.  Raises ReaderGone, NotWritten."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise NotWritten(
            f"stdout cannot be written ({error.strerror or error}): make room where it leads"
        ) from None


def can_ask() -> bool:
    """Whether a person is there to be asked."""
    return is_typed() and sys.stderr.isatty()


def is_typed() -> bool:
    """Whether stdin is a terminal. A shell may have closed it, and then Python has none."""
    return sys.stdin is not None and sys.stdin.isatty()


def say(text: str) -> None:
    """Write a line for people to stderr. A terminal gets it broken between words, and nobody else."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    console.print(Text(printable(text)), soft_wrap=not console.is_terminal)


class SaidAlready(logging.Handler):
    """Warnings of a wait go to stderr as they come, and what they advise is not said once more at its end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Above the line that shows where a job stands, which has taken sys.stderr over."""
        self._said += record.getMessage() + "\n"
        sys.stderr.write(printable(record.getMessage()) + "\n")

    def rest_of(self, error: GenqueueError) -> str:
        """Its message, without a hint that stands above."""
        said = error.hint and error.hint in self._said
        return str(error).replace(f": {error.hint}", "") if said else str(error)
