"""Somebody waits for a job's end."""

from collections.abc import Sequence
from typing import Any

from ..contract import Keys
from .step import Step

RawEntry = tuple[bytes, dict[bytes, bytes]]
"""An entry of a stream as redis-py returns it: id and fields."""


def await_end(keys: Keys, job_id: str, wake_key: str, *, ttl_s: int) -> Step[RawEntry | None]:
    """Have whoever ends the job say so on the wake stream, too.  Returns the terminal entry, if it has ended.

    To be called once the wake stream is read: no end falls between the two.
    """
    names = [keys.events(job_id), keys.result(job_id), keys.waiters(job_id)]
    return Step("await_end", names, [wake_key, ttl_s], _read_entry)


def _read_entry(reply: Sequence[Any] | None) -> RawEntry | None:
    if not reply:
        return None
    entry_id, flat = reply
    return entry_id, dict(zip(flat[::2], flat[1::2], strict=True))
