"""Records of an input, one after the other: a line of JSON or of text, or a row of a table. Nothing is kept."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..contract import InvalidRequest
from ..strict_json import read_json
from ..submission import MAX_REQUEST_BYTES

MAX_LINE_BYTES = 4 * MAX_REQUEST_BYTES
"""A longer line is passed over. JSON may write a character as six (`\\u4f60`)."""
_BOM = b"\xef\xbb\xbf"
"""What some editors, and Excel, put before a text in UTF-8."""


@dataclass(frozen=True, slots=True)
class Record:
    """What stands in the input for one row, not yet looked into."""

    line: int
    """The line on which it begins, from 1."""
    raw: bytes
    """What it is told by from another in its place."""
    cells: Sequence[str] | None = None
    """Of a table."""
    fault: str = ""
    """Why it is none; empty where it may be one."""


Records = Callable[[BinaryIO], Iterator[Record]]


def json_lines(file: BinaryIO, longest: int | None = None) -> Iterator[Record]:
    """Lines of a file, blank ones left out.  longest: bytes of a line; None: MAX_LINE_BYTES."""
    longest, number = longest or MAX_LINE_BYTES, 0
    while line := file.readline(longest):
        number += 1
        if len(line) == longest and not line.endswith(b"\n"):
            _skip_line(file)
            yield Record(number, b"", fault=f"the line is longer than {longest} bytes")
            continue
        raw = (line.removeprefix(_BOM) if number == 1 else line).strip()
        if raw:
            yield Record(number, raw)


def text_lines(file: BinaryIO) -> Iterator[Record]:
    """Lines of text as if they were JSON's texts; blank ones, and white space around one, are left out."""
    for record in json_lines(file):
        try:
            text = record.raw.decode()
        except UnicodeDecodeError:
            yield Record(record.line, record.raw, fault="it is not UTF-8 text")
            continue
        yield record if record.fault else Record(record.line, json.dumps(text, ensure_ascii=False).encode())


def table_rows(file: BinaryIO, delimiter: str = ",") -> Iterator[Record]:
    """Rows of a CSV, the header among them; what is no UTF-8 is kept as surrogates, for `rows` to name."""
    csv.field_size_limit(MAX_REQUEST_BYTES)
    has_ended = False

    def lines() -> Iterator[str]:
        nonlocal has_ended
        yield from _text_lines(file)
        has_ended = True

    reader = csv.reader(lines(), delimiter=delimiter)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(begins, b"", fault=f"it is no row of a CSV: {error}")
            continue
        if has_ended:  # the reader wanted a line more
            yield Record(begins, b"", fault='it has a quote that is never closed: "" is a quote within a cell')
        elif cells:
            raw = json.dumps(cells).encode()
            yield Record(begins, raw, cells)


def value_of(record: Record) -> Any:
    """What a line of JSON says.  Raises InvalidRequest."""
    try:
        return read_json(record.raw)
    except ValueError as error:
        raise InvalidRequest(f"it is not JSON: {error}") from None


def _text_lines(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(_bounded_lines(file), 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        yield text.decode(errors="surrogateescape")


def _bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; what is longer than allowed comes in pieces, which the reader refuses as one field."""
    while line := file.readline(MAX_LINE_BYTES):
        yield line


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(io.DEFAULT_BUFFER_SIZE)) and not rest.endswith(b"\n"):
        pass
