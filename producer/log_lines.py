"""Lines of a log, for people."""

import logging
from datetime import datetime


class TextFormatter(logging.Formatter):
    """Time, level, message. A message is one line, whatever it quotes; a traceback stands below it.

    speaker: whose lines they are.
    """

    def __init__(self, speaker: str = "") -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {f'{speaker}: ' if speaker else ''}%(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """ISO 8601, with the zone's offset."""
        return time_of(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, with what would break it escaped."""
        record.message = "".join(each if each.isprintable() else repr(each)[1:-1] for each in record.message)
        return super().formatMessage(record)


def time_of(record: logging.LogRecord) -> str:
    """Of a record, in ISO 8601: logging's own leaves the zone out."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
