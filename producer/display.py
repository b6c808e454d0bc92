"""What a person sees on stderr while a job waits: one line that says where it stands.

Knows rich and the producer. Silent where stderr is no terminal, so that nothing but diagnostics goes into a log.
What it shows comes from elsewhere, a worker's own words among it: it is text, neither markup nor an order to
the terminal.
"""

import contextlib
import threading
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status as RichStatus
from rich.text import Text

from .client import Producer
from .contract import GenqueueError
from .printable import printable

REFRESH_S = 0.5


class WaitingLine:
    """A status line, kept up to date from a thread until `clear`."""

    def __init__(self, producer: Producer, job_id: str, console: Console) -> None:
        self._producer = producer
        self._job_id = job_id
        self._status = RichStatus("sent", console=console)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="genqueue-waiting-line", daemon=True)
        self._status.start()
        self._thread.start()

    def clear(self) -> None:
        """Take the line off the screen. Harmless to repeat."""
        if not self._over.is_set():
            self._over.set()
            self._status.stop()

    def _refresh(self) -> None:
        while not self._over.is_set():
            try:
                text = self._producer.status(self._job_id).describe()
            except GenqueueError as error:
                text = str(error)
            except RuntimeError:  # the producer was closed: the command is over
                return
            self._status.update(Text(printable(text)))
            self._over.wait(REFRESH_S)


class NoLine:
    """Where stderr is no terminal."""

    def clear(self) -> None:
        """Nothing to take off."""


@contextlib.contextmanager
def waiting_line(producer: Producer, job_id: str) -> Iterator[WaitingLine | NoLine]:
    """Show where the job stands, until the block ends or clears the line."""
    console = Console(stderr=True)
    line = WaitingLine(producer, job_id, console) if console.is_terminal else NoLine()
    try:
        yield line
    finally:
        line.clear()
