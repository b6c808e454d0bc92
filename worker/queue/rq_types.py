"""What the rest of the worker has to know of RQ: its jobs and their runs, as values that are handed around; and
how it writes a time."""

from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job
from rq.utils import now, utcformat
from rq.worker.base import WorkerStatus

__all__ = ["DeserializationError", "Execution", "Job", "WorkerStatus", "now_in_rqs_form"]


def now_in_rqs_form() -> str:
    """This host's time, as RQ writes it. For RQ's records alone: our deadlines are on Redis' clock."""
    return utcformat(now())
