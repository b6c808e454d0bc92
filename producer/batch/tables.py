"""A prompt from the cells of a row: `--template "Summarise: {text}"`."""

import string
from collections.abc import Sequence

from ..contract import InvalidRequest

DEFAULT_TEMPLATE = "{prompt}"
"""Of a table for which none is given: its column `prompt`."""


class Template:
    """Text with column names in braces; `{{` and `}}` are braces.  Raises InvalidRequest where it is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise InvalidRequest(
                f"--template: {error}. A column's name stands in braces, as {{text}}; {{{{ is a brace"
            ) from None
        for literal, column, spec, conversion in parts:
            if column is not None and (spec or conversion or not column):
                raise InvalidRequest(
                    "--template: a column's name alone stands in braces, as {text}; {{ and }} are braces"
                )
            self._parts.append((literal, column))

    def bound_to(self, columns: Sequence[str]) -> "BoundTemplate":
        """For rows below that header.  Raises InvalidRequest for a column that is not there."""
        places: list[tuple[str, int | None]] = []
        for literal, column in self._parts:
            if column is not None and column not in columns:
                there = ", ".join(columns)[:200]
                raise InvalidRequest(
                    f'there is no column {column!r:.80}: give --template, as "Summarise: {{text}}". The header '
                    f"has {there}"
                )
            if column is not None and columns.count(column) > 1:
                raise InvalidRequest(
                    f"the header has the column {column!r:.80} twice: nobody can tell which is meant"
                )
            places.append((literal, None if column is None else columns.index(column)))
        return BoundTemplate(places, len(columns))


class BoundTemplate:
    """A template that knows where its columns are."""

    def __init__(self, places: Sequence[tuple[str, int | None]], width: int) -> None:
        self._places = places
        self._width = width

    def fill(self, cells: Sequence[str]) -> str:
        """The prompt of a row.  Raises InvalidRequest where it is not as wide as the header."""
        if len(cells) != self._width:
            raise InvalidRequest(f"it has {len(cells)} cells, and the header {self._width}")
        text = "".join(literal + ("" if place is None else cells[place]) for literal, place in self._places)
        if any("\udc80" <= character <= "\udcff" for character in text):
            raise InvalidRequest("it is not UTF-8 text: save the table as UTF-8")
        return text
