"""The input: where it is, and how it is read."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, Self

from ..contract import InvalidRequest
from .reading import Record, Records, json_lines, table_rows, text_lines
from .tables import DEFAULT_TEMPLATE, Template

Format = Literal["jsonl", "csv", "tsv", "txt"]
STDIO = "-"
_BY_NAME: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".txt": "txt"}


@dataclass(frozen=True)
class Source:
    """Rows of JSON or of text, or a table with the template of its prompts.  path: - is stdin."""

    path: str
    format: Format
    template: Template | None

    @classmethod
    def of(cls, path: str, given: Format | None, template: str | None) -> Self:
        """given: the format; None: as the name says.  Raises InvalidRequest."""
        kind = given or _BY_NAME.get(Path(path).suffix.lower(), "jsonl")
        if kind in ("csv", "tsv"):
            return cls(path, kind, Template(DEFAULT_TEMPLATE if template is None else template))
        if template is not None:
            raise InvalidRequest(
                f"--template makes prompts of a table's columns, and {path} is none by its name: add "
                "--input-format csv, or leave the template out"
            )
        return cls(path, kind, None)

    def records(self, file: BinaryIO) -> Iterator[Record]:
        """Take it apart.  Raises InvalidRequest where it cannot be read on."""
        read: Records = text_lines if self.format == "txt" else json_lines
        if self.template is not None:
            read = partial(table_rows, delimiter="," if self.format == "csv" else "\t")
        try:
            yield from read(file)
        except OSError as error:
            raise self._unreadable(error) from None

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Raises InvalidRequest where it cannot be read."""
        is_stdin = self.path == STDIO
        try:
            # Of stdin a file of its own: at exit Python waits for the lock of sys.stdin, which a thread may hold.
            place = _stdin() if is_stdin else self.path
            file = open(place, "rb", closefd=not is_stdin)  # noqa: SIM115
        except OSError as error:
            raise self._unreadable(error) from None
        with file:
            yield file

    def _unreadable(self, error: OSError) -> InvalidRequest:
        return InvalidRequest(f"{self.path} cannot be read: {error.strerror or error}")

    def count(self) -> int | None:
        """Its rows; None where it can be read but once."""
        if not Path(self.path).is_file():
            return None
        with self.open() as file:
            records = sum(1 for _ in self.records(file))
        return records if self.template is None else max(records - 1, 0)


def _stdin() -> int:
    return 0 if sys.stdin is None else sys.stdin.fileno()  # a shell may have closed it, and then Python has none
