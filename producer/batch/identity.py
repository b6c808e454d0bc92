"""Which job a row is: its content, its place and the options that its answer depends on, in one id.

The same file with the same options is the same jobs, however often it is started again; another option makes
another batch. An id says by itself which batch and which line it belongs to.
"""

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from .reading import Record

_JOB_ID = re.compile(r"batch-([0-9a-f]{8})-([0-9]{1,12})-([0-9a-f]{16})")


class JobName(NamedTuple):
    """A job id, taken apart."""

    batch: str
    line: int
    content: str


class Identity:
    """Of one batch.  options: all that decides on the answers."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._seed = json.dumps(options, sort_keys=True).encode()
        self.batch = hashlib.sha256(self._seed).hexdigest()[:8]

    def below(self, header: Record) -> Self:
        """The same for the rows of a table: what its columns are called decides on their prompts, too."""
        other = copy.copy(self)
        other._seed += header.raw  # noqa: SLF001 - of the same class
        return other

    def name(self, record: Record) -> JobName:
        """Of a row."""
        digest = hashlib.sha256(self._seed + b"\0" + record.raw).hexdigest()
        return JobName(self.batch, record.line, digest[:16])


def job_id(name: JobName) -> str:
    """As it is submitted."""
    return f"batch-{name.batch}-{name.line}-{name.content}"


def read_job_id(text: object) -> JobName | None:
    """None for one that no batch has made."""
    match = _JOB_ID.fullmatch(text) if isinstance(text, str) else None
    return JobName(match[1], int(match[2]), match[3]) if match else None
