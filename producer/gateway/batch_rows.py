"""Rows of a batch: which file will do, and what a row asks for, read as a request of its endpoint is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..batch.openai_rows import CHAT, COMPLETIONS, custom_id
from ..batch.reading import Record, value_of
from ..contract import GenerationRequest, InvalidRequest
from ..contract.keys import check_model_name
from .asked import read_asked
from .calls import Kind
from .errors import ApiError
from .response_bodies import read_response
from .settings import GatewaySettings

ENDPOINTS: Mapping[str, Kind] = {CHAT: "chat", COMPLETIONS: "completions", "/v1/responses": "responses"}
MOST_FAULTS = 100
"""Of a file, after which nobody looks on."""
LINES_PER_ROW = 10
"""Of the rows that a file may have, so many lines may be blank: what is known of a row is kept by its line."""


@dataclass
class Checked:
    """What a file is, line by line.  faults: OpenAI's batch errors; with one the batch fails as a whole."""

    rows: int = 0
    model: str | None = None
    faults: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        """One more."""
        self.faults.append({"code": code, "message": message[:1_000], "line": line, "param": param})


def check_rows(records: Iterable[Record], endpoint: str, most: int) -> Checked:
    """Look through a file.  most: rows that it may have."""
    checked, seen = Checked(), set[int]()
    for record in records:
        checked.rows += 1
        if checked.rows > most:
            checked.fault("too_many_rows", f"a batch may have {most} rows here", record.line)
            return checked
        if record.line > LINES_PER_ROW * most:
            checked.fault("too_many_lines", "leave the blank lines out", record.line)
            return checked
        _check(record, endpoint, checked, seen)
        if len(checked.faults) >= MOST_FAULTS:
            return checked
    if not checked.rows:
        checked.fault("empty_file", "the file has no rows")
    return checked


def _check(record: Record, endpoint: str, checked: Checked, seen: set[int]) -> None:
    line = record.line
    if record.fault:
        checked.fault("line_too_long", record.fault, line)
        return
    try:
        row = value_of(record)
    except InvalidRequest as error:
        checked.fault("invalid_json_line", str(error), line)
        return
    if not isinstance(row, dict):
        checked.fault("invalid_json_line", "a line is an object: custom_id, method, url and body", line)
        return
    try:
        name = custom_id(row.get("custom_id"))
    except InvalidRequest as error:
        checked.fault("invalid_custom_id", str(error), line, "custom_id")
        return
    if (its_hash := hash(name)) in seen:
        checked.fault("duplicate_custom_id", f"the custom_id {name!r:.80} was there before", line, "custom_id")
    seen.add(its_hash)
    if row.get("method") != "POST":
        checked.fault("invalid_method", "method must be POST", line, "method")
    if row.get("url") != endpoint:
        checked.fault("invalid_url", f"url must be that of the batch, {endpoint}", line, "url")
    if not isinstance(body := row.get("body"), dict):
        checked.fault("invalid_body", "body must be an object, with the fields of the request", line, "body")
        return
    _check_model(body.get("model"), line, checked)


def _check_model(model: Any, line: int, checked: Checked) -> None:
    try:
        model = check_model_name(model)
    except InvalidRequest as error:
        checked.fault("invalid_model", str(error), line, "body.model")
        return
    checked.model = checked.model or model
    if model != checked.model:
        said = f"the rows of a batch are for one model, and the first is for {checked.model}"
        checked.fault("mismatched_model", said, line, "body.model")


class RowReader:
    """Reads rows of one endpoint for one owner.  To be given to a `RowParser`."""

    def __init__(self, endpoint: str, owner: str, settings: GatewaySettings) -> None:
        self._kind = ENDPOINTS[endpoint]
        self._owner = owner
        self._settings = settings

    def __call__(self, row: Mapping[str, Any], known: dict[str, Any]) -> GenerationRequest:
        """As `batch.rows.ReadRow`; what it keeps are fields of the row's `Call`."""
        try:
            return self._read(row["body"], known)
        except ApiError as error:
            raise InvalidRequest(error.message) from None

    def _read(self, body: Mapping[str, Any], known: dict[str, Any]) -> GenerationRequest:
        if body.get("stream") or body.get("background"):
            raise InvalidRequest("a row has no stream, and is in the background anyway: leave it out")
        if self._kind == "responses":
            response = read_response(body)
            if response.previous_id is not None:
                raise InvalidRequest("previous_response_id: a row stands alone")
            shown = {**response.fields, "store": False}
            known["about"] = {"logprobs": response.logprobs, "response": shown}
            return response.request([], self._owner, self._settings)
        asked = read_asked(body, self._kind, self._owner, self._settings)
        if len(asked.requests) != 1:
            raise InvalidRequest("a row has one answer: leave n out, and give each prompt a row of its own")
        known["about"] = {
            "logprobs": asked.logprobs,
            "service_tier": asked.service_tier,
            "metadata": asked.metadata,
        }
        return asked.requests[0]
