"""The worker's log: one line for each thing that happens, on stderr, as text or as JSON.

The engine's process writes to the same stderr, in the same form. In JSON a line is an object with `time`, `level`,
`logger` and `message`; with `job_id` where it is about a job, and more where there is more (see `job_line`). No
line holds a prompt or an answer. Of RQ's loggers only warnings are shown.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.text import Text

from producer.log_lines import TextFormatter, time_of
from producer.printable import printable

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

logger = logging.getLogger(__name__)


def configure(level: LogLevel, log_format: LogFormat = "text", *, speaker: str = "") -> None:
    """Log to stderr from that level on.  speaker: whose lines they are, said in each line of text."""
    logging.basicConfig(level=level.upper(), handlers=[_Handler(log_format, speaker)])
    logging.captureWarnings(True)
    if log_format == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    # RQ's worker gives its logger a level of its own when it is imported, which the level above does not move.
    for name in ("rq", "rq.worker"):
        logging.getLogger(name).setLevel(rq_level(level))


def adopt() -> None:
    """Have the loggers of libraries that brought handlers of their own, as torch and transformers do, use ours."""
    for other in list(logging.root.manager.loggerDict.values()):
        if isinstance(other, logging.Logger) and other.handlers:
            other.handlers.clear()
            other.propagate = True


def format_in_use() -> LogFormat | None:
    """How this process logs; None where it was not configured here, as in a command that only answers."""
    ours = (handler for handler in logging.root.handlers if isinstance(handler, _Handler))
    return next((handler.log_format for handler in ours), None)


def complain(message: str) -> None:
    """Say what ends the program and a person can mend: in JSON as the log's last line."""
    if format_in_use() == "json":
        logger.error(message)
    else:
        console = Console(stderr=True, highlight=False)
        said = Text(f"error: {printable(message)}")
        console.print(said, soft_wrap=not console.is_terminal)  # else broken between words


def rq_level(level: str) -> int:
    """For RQ's own loggers, which log each step at info: what matters of it is said by us."""
    return max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()])


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, log_format: LogFormat, speaker: str) -> None:
        super().__init__(sys.stderr)
        self.log_format: LogFormat = log_format
        self.setFormatter(json_formatter() if log_format == "json" else TextFormatter(speaker))


def json_formatter() -> logging.Formatter:
    """For machines: one object a line."""
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - of the extra, which a bare install lacks

    class Formatter(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
            """As in a line of text."""
            return time_of(record)

    return Formatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        json_ensure_ascii=False,
    )


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """In place of Python's traceback, which is no line of JSON."""
    logger.critical("%s", kind.__name__, exc_info=(kind, error or kind(), traceback))
