"""Somebody waits for a job's end."""

from typing import Any, Literal

from ..contract import Keys
from . import rq_names
from .step import Step

RawEntry = tuple[bytes, dict[bytes, bytes]]
"""An entry of a stream as redis-py returns it: id and fields."""


def await_end(keys: Keys, job_id: str, wake_key: str, *, ttl_s: int) -> Step[RawEntry | Literal["gone"] | None]:
    """Have whoever ends the job say so on the wake stream, too.  Returns the terminal entry, if it has ended;
    `gone` where nothing is there of the job, and nothing was written.

    To be called once the wake stream is read: no end falls between the two.
    """
    names = [keys.events(job_id), keys.result(job_id), keys.waiters(job_id), rq_names.job(job_id)]
    return Step("await_end", names, [wake_key, ttl_s], _read_entry)


def _read_entry(reply: Any) -> RawEntry | Literal["gone"] | None:
    if not reply:
        return None
    if isinstance(reply, bytes):
        return "gone"
    entry_id, flat = reply
    return entry_id, dict(zip(flat[::2], flat[1::2], strict=True))
