"""The output: a line for each row, appended whole. It holds all that a later run needs to go on from it."""

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from ..contract import GenqueueError
from .done import Done
from .identity import JobName, read_job_id
from .openai_answers import ID_PREFIX

_BEGINNINGS = (b'{"line": ', f'{{"id": "{ID_PREFIX}'.encode())
"""Of every line that is written here: what else stands at a file's end is not cut off."""


def encode(line: Mapping[str, Any]) -> bytes:
    """A line as it is written, with its line break."""
    return json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"


class OutputFile:
    """A file that is begun, or gone on with; nobody else writes to it meanwhile.

    Raises GenqueueError where it cannot be written, where another batch is at it, and where it holds anything but
    answers of this batch: nothing of such a file is changed.
    """

    def __init__(self, path: Path, batch: str) -> None:
        self._path = path
        self._fault = ""
        """Why no line is written any more: behind one that is torn, nobody could read it."""
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666), "rb+", buffering=0)
        except OSError as error:
            raise GenqueueError(f"{path} cannot be written: {error.strerror}") from None
        try:
            self._lock()
            self.done = self._read(batch) if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode) else Done()
        except BaseException:
            self._file.close()
            raise

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line.  Raises GenqueueError where there is no room for it, or was none for one before."""
        rest = memoryview(encode(line))
        try:
            while rest and not self._fault:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._fault = f"{self._path} cannot be written: {error.strerror}. The same command goes on from here"
        if self._fault:
            raise GenqueueError(self._fault)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GenqueueError(f"another genqueue batch writes to {self._path}: wait for it, or end it") from None
        except OSError:
            pass  # some network file systems have no locks

    def _read(self, batch: str) -> Done:
        """What is done; what a write left torn is cut off."""
        done = Done()
        with open(self._path, "rb") as lines:  # noqa: PTH123 - beside the descriptor that appends
            end, torn = self._add_lines(lines, done, batch)
        if torn:
            is_ours = any(torn.startswith(each) or each.startswith(torn) for each in _BEGINNINGS)
            if not is_ours and torn.strip(b"\0"):
                raise self._foreign("its last line")
            self._file.truncate(end)
        return done

    def _add_lines(self, lines: BinaryIO, done: Done, batch: str) -> tuple[int, bytes]:
        """Returns where the last whole line ends, and what stands behind it."""
        end = 0
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return end, line
            end += len(line)
            found = read_line(line)
            if found is None:
                raise self._foreign(f"line {number}")
            name, failed = found
            if name.batch != batch:
                raise GenqueueError(
                    f"{self._path} holds answers to other options (the model, the template, the sampling, the "
                    "prefix): give another output, or those options"
                )
            try:
                done.add(name, failed=failed)
            except GenqueueError as error:
                raise GenqueueError(f"{self._path}, line {number}: {error}") from None
        return end, b""

    def _foreign(self, where: str) -> GenqueueError:
        return GenqueueError(f"{self._path} is no output of genqueue batch, {where} says: give another output")


def read_line(line: bytes) -> tuple[JobName, bool] | None:
    """Which row a line of an output answers, and whether that failed. None for what is no such line."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    if "job_id" in fields:
        name, failed = read_job_id(fields["job_id"]), fields.get("status") != "finished"
    else:
        name = read_job_id(str(fields.get("id", "")).removeprefix(ID_PREFIX))
        failed = fields.get("error") is not None
    return None if name is None else (name, failed)
