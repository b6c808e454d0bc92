"""What the worker's log shows, and of RQ's."""

import logging
import sys


def configure(level: str) -> None:
    """Log to stderr from that level on: debug, info, warning, error."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", level=level.upper(), stream=sys.stderr)
    logging.getLogger("rq").setLevel(rq_level(level))


def rq_level(level: str) -> int:
    """For RQ's own loggers, which log each step at info: what matters of it is said by us."""
    return max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()])
