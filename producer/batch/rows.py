"""From a record to a row: a request under its job id, or why it is none."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..contract import GenerationRequest, InvalidRequest
from ..submission import OF_THE_CALL, parse_request
from . import openai_rows
from .done import Done
from .identity import Identity, job_id
from .reading import Record, value_of
from .tables import BoundTemplate, Template


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the input."""

    line: int
    job_id: str
    request: GenerationRequest | None
    fault: str = ""
    """Why there is no request."""
    custom_id: str | None = None
    endpoint: str | None = None
    """Of OpenAI's batch format, whose answer has OpenAI's form; None for ours."""
    about: Any = None
    """What `ReadRow` has kept of it for its answer."""


ReadRow = Callable[[Mapping[str, Any], dict[str, Any]], GenerationRequest]
"""Makes the request of a row of OpenAI's format, without its custom_id; what it puts into the dictionary under
`about` stands in the Row.  Raises InvalidRequest."""


class RowParser:
    """Makes rows of records.

    sampling  the command's options, for what a row does not say itself
    chat      a text is sent as a user's message
    template  for the rows of a table
    read_row  of OpenAI's format; None: as `openai_rows` does
    """

    def __init__(
        self,
        sampling: Mapping[str, Any],
        *,
        chat: bool,
        template: Template | None,
        read_row: ReadRow | None = None,
    ) -> None:
        self._sampling = sampling
        self._chat = chat
        self._template = template
        self._read_row = read_row or self._read_openai_row
        self._bound: BoundTemplate | None = None

    def rows(self, records: Iterable[Record], identity: Identity, done: Done) -> Iterator[Row | None]:
        """A row for each record; None for one that is done.  Raises InvalidRequest for a header that does not do.

        Raises GenqueueError where the input is not the one whose answers are there.
        """
        last_line = 0
        for record in records:
            last_line = record.line
            if self._template is not None and self._bound is None:
                self._bound = self._template.bound_to(_header(record))
                identity = identity.below(record)
                continue
            name = identity.name(record)
            yield None if done.has(name) else self._row(record, job_id(name))
        done.check_end(last_line)

    def _row(self, record: Record, its_id: str) -> Row:
        known: dict[str, Any] = {}
        try:
            if record.fault:
                raise InvalidRequest(record.fault)  # noqa: TRY301 - said like every other fault
            request = self._request(record, known)
        except InvalidRequest as error:
            return Row(record.line, its_id, None, str(error), **known)
        return Row(record.line, its_id, request, **known)

    def _request(self, record: Record, known: dict[str, Any]) -> GenerationRequest:
        """known: gets what an answer needs, also where the request is none."""
        if self._bound is not None and record.cells is not None:
            return self._of_text(self._bound.fill(record.cells))
        value = _value_of(record)
        if isinstance(value, str):
            return self._of_text(value)
        if not isinstance(value, dict):
            raise InvalidRequest(
                "a row is a JSON object or a string. A file that is one list becomes lines by: jq -c '.[]'"
            )
        if "custom_id" in value:
            known["custom_id"] = openai_rows.custom_id(value.pop("custom_id"))
        if openai_rows.is_row(value):
            known["endpoint"] = openai_rows.endpoint(value)
            return self._read_row(value, known)
        if strays := sorted(OF_THE_CALL & value.keys()):
            raise InvalidRequest(f"{strays[0]}: it is no field of a row, but an option of the whole batch")
        return parse_request(value, self._sampling)

    def _read_openai_row(self, value: Mapping[str, Any], _: dict[str, Any]) -> GenerationRequest:
        return parse_request(openai_rows.request_fields(value, self._sampling), {})

    def _of_text(self, text: str) -> GenerationRequest:
        fields = {"messages": [{"role": "user", "content": text}]} if self._chat else {"prompt": text}
        return parse_request(fields, self._sampling)


def _value_of(record: Record) -> Any:
    try:
        return value_of(record)
    except InvalidRequest as error:
        if record.raw[:1] in (b"{", b"[", b'"'):
            raise
        raise InvalidRequest(f"{error}. A text stands in quotes; or --input-format txt: one a line") from None


def _header(record: Record) -> list[str]:
    if record.fault or record.cells is None:
        raise InvalidRequest(f"the header, line {record.line}: {record.fault}")
    return list(record.cells)
