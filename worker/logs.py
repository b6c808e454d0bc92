"""What the worker's log shows, and of RQ's."""

import logging
import sys


def configure(level: str) -> None:
    """Log to stderr from that level on: debug, info, warning, error."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", level=level.upper(), stream=sys.stderr)
    # RQ's worker gives its logger a level of its own when it is imported, which the level above does not move.
    for name in ("rq", "rq.worker"):
        logging.getLogger(name).setLevel(rq_level(level))


def rq_level(level: str) -> int:
    """For RQ's own loggers, which log each step at info: what matters of it is said by us."""
    return max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()])
