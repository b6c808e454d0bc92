"""README.md of the contract names what there is: fields with their defaults, events, results, codes, keys."""

import json
import re
import string
from hashlib import sha256
from pathlib import Path
from typing import get_args

import pytest

from producer.contract import (
    BASE_REQUEST_FIELDS,
    REQUEST_FIELDS,
    ErrorCode,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    Keys,
    Markup,
    Message,
    StartedData,
    Status,
    Timings,
    TokensData,
    Usage,
    events,
)
from producer.contract.keys import FUNCTION
from producer.contract.markup import ToolFormat
from producer.contract.requests import DEFAULT_MAX_NEW_TOKENS, DRAWN_SEEDS, MAX_PROMPT_CHARS, MAX_PROMPT_TOKENS
from producer.contract.views.message_view import call_id
from producer.contract.views.syntaxes import READERS

README = (Path(events.__file__).parent / "README.md").read_text()


def rows(head: str) -> dict[str, list[str]]:
    """The rows of the table with that head: the cells after the first, by each name in the first."""
    table = README.split(f"| {head} |\n")[1].split("\n", 1)[1].split("\n\n")[0]
    found: dict[str, list[str]] = {}
    for line in table.splitlines():
        first, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("| ")))
        for name in re.findall(r"`([^`]+)`", first):
            found[name] = cells
    return found


def test_each_field_of_a_request_stands_there_with_its_default() -> None:
    table = rows("field | type | default | bounds and meaning")

    assert table.keys() == set(GenerationRequest.model_fields)
    for name, field in GenerationRequest.model_fields.items():
        default = json.loads(table[name][1].strip("`"))
        assert default == (list(field.default) if isinstance(field.default, tuple) else field.default), name


def test_the_fields_beyond_the_base_are_named() -> None:
    beyond = README.split("All of these but ")[1].split(" are the base")[0]

    assert set(re.findall(r"`([\w.]+)`", beyond)) == REQUEST_FIELDS - BASE_REQUEST_FIELDS


def test_each_field_of_a_message_stands_there() -> None:
    assert rows("field of a message | type | bounds and meaning").keys() == set(Message.model_fields)


def test_each_form_of_a_call_stands_there() -> None:
    readers = set(get_args(ToolFormat))

    assert rows("`tool_calls` | a call is | as of").keys() == readers == set(READERS)
    for name in Markup.model_fields:
        assert f"`{name}`" in README.split("`markup` of the job's first `started`")[1].split("\n\n")[0]


def test_an_id_of_a_call_is_what_it_says() -> None:
    number, digits = int.from_bytes(sha256(b"JOB:0").digest()), string.digits + string.ascii_letters

    assert call_id("JOB", 0) == "".join(digits[number // 62**place % 62] for place in range(9))


@pytest.mark.parametrize(
    "figure",
    [f"{MAX_PROMPT_CHARS:,} characters", f"{MAX_PROMPT_TOKENS:,}, each", f"{DEFAULT_MAX_NEW_TOKENS}, or less"],
)
def test_the_bounds_are_those_of_the_code(figure: str) -> None:
    assert figure in README
    assert DRAWN_SEEDS == 2**53


def test_each_event_stands_there_with_its_fields() -> None:
    table = rows("type | data")

    assert table.keys() == events.KNOWN_TYPES
    for name, model in (("started", StartedData), ("tokens", TokensData)):
        assert set(model.model_fields) <= set(re.findall(r"`(\w+)`", table[name][0]))


def test_each_field_of_a_result_stands_there() -> None:
    table = rows("field | holds")

    assert table.keys() == set(GenerationResult.model_fields)
    for name, model in (("usage", Usage), ("timings", Timings)):
        assert set(re.findall(r"`(\w+)`", table[name][0])) >= set(model.model_fields)
    assert set(re.findall(r"`(\w+)`", table["status"][0])) == set(get_args(Status))
    assert set(re.findall(r"`(\w+)`", table["finish_reason"][0])) == set(get_args(FinishReason))


def test_each_code_stands_there() -> None:
    assert rows("code | the job failed because").keys() == set(get_args(ErrorCode))


def test_the_names_are_those_of_the_code() -> None:
    keys = Keys()
    ours = {keys.events("JOB"), keys.result("JOB"), keys.tokens("JOB"), keys.cancel("JOB"), keys.waiters("JOB")}
    ours.add(keys.deleted("JOB"))
    queues = README.split("| prefix | high | normal | low |\n|---|---|---|---|\n")[1].split("\n\n")[0]

    assert rows("name | type | holds | who writes it").keys() == ours
    for prefix, line in zip(("gen", "PREFIX"), queues.splitlines(), strict=True):
        assert re.findall(r"`([^`]+)`", line) == [prefix, *Keys(prefix).queues("MODEL")]
    assert FUNCTION in README
