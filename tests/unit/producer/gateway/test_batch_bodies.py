"""What a batch and its file may be: read without a gateway."""

import io
import json
import math
from typing import Any

import pytest
from openai.types.batch_create_params import BatchCreateParams
from openai.types.file_create_params import FileCreateParams

from producer.batch.reading import json_lines
from producer.gateway import batch_rows, batches, uploads
from producer.gateway.batch_rows import MOST_FAULTS, check_rows
from producer.gateway.batches import read_batch
from producer.gateway.errors import ApiError
from producer.gateway.settings import GatewaySettings

from .fields import fields_of

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def row(number: int, **fields: Any) -> dict[str, Any]:
    """Of a chat."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return {"custom_id": f"id-{number}", "method": "POST", "url": CHAT, "body": body}


def checked(*rows: Any, longest: int = 2_000) -> batch_rows.Checked:
    raw = b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in rows)
    return check_rows(json_lines(io.BytesIO(raw), longest), CHAT, 10)


BAD: list[tuple[list[Any], str, int | None]] = [
    ([], "empty_file", None),
    ([b"", b"  "], "empty_file", None),
    ([row(0), b"{"], "invalid_json_line", 2),
    ([row(0), b"", b"[1]"], "invalid_json_line", 3),
    ([b"\xff"], "invalid_json_line", 1),
    ([{**row(0), "custom_id": 7}], "invalid_custom_id", 1),
    ([{name: value for name, value in row(0).items() if name != "custom_id"}], "invalid_custom_id", 1),
    ([row(0), row(1), row(0)], "duplicate_custom_id", 3),
    ([{**row(0), "method": "GET"}], "invalid_method", 1),
    ([row(0), {**row(1), "url": COMPLETIONS}], "invalid_url", 2),
    ([{**row(0), "body": []}], "invalid_body", 1),
    ([row(0), row(1, model="large")], "mismatched_model", 2),
    ([row(0, model="../x")], "invalid_model", 1),
    ([row(0, model=None)], "invalid_model", 1),
    ([row(0), row(1, stop="x" * 5_000)], "line_too_long", 2),
    ([row(n) for n in range(11)], "too_many_rows", 11),
    ([row(0), *[b""] * 99, row(1)], "too_many_lines", 101),
    ([row(0), json.dumps(row(1, temperature=math.nan)).encode()], "invalid_json_line", 2),
    ([{**row(0), "custom_id": "\ud800"}], "invalid_json_line", 1),
]


@pytest.mark.parametrize(("rows", "code", "line"), BAD, ids=[f"{n}-{bad[1]}" for n, bad in enumerate(BAD)])
def test_a_fault_of_a_file_has_its_line(rows: list[Any], code: str, line: int | None):
    assert [(fault["code"], fault["line"]) for fault in checked(*rows).faults] == [(code, line)]


def test_a_file_that_will_do():
    found = checked(row(0), b"", row(1))
    assert (found.rows, found.model, found.faults) == (2, "tiny", [])


def test_faults_are_named_up_to_a_number():
    raw = b"{\n" * 300
    found = check_rows(json_lines(io.BytesIO(raw)), CHAT, 1000)
    assert [fault["line"] for fault in found.faults] == list(range(1, MOST_FAULTS + 1))


def test_a_line_that_is_too_long_is_not_held():
    """Of 100 MB no more than a line may have is asked for at once."""

    class Endless(io.RawIOBase):
        left = 100 * 2**20
        most = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.most = max(self.most, len(buffer))
            count = min(self.left, len(buffer))
            buffer[:count] = b"x" * count
            self.left -= count
            return count

    raw = Endless()
    longest = 64 * 1024
    [record] = json_lines(io.BufferedReader(raw, longest), longest)
    assert record.fault.endswith("65536 bytes")
    assert (record.raw, raw.left) == (b"", 0)
    assert raw.most <= longest


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "0s"}, "completion_window"),
        ({"completion_window": "9d"}, "completion_window"),
        ({"completion_window": "24h\n"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"colour": "red"}, "colour"),
        ({"output_expires_after": 7}, "output_expires_after"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 7}}, "output_expires_after.seconds"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(changed: dict[str, Any], param: str):
    body = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **changed}
    with pytest.raises(ApiError) as refused:
        read_batch(body, GatewaySettings())
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_time_for_a_batch_is_of_any_unit():
    body = {"input_file_id": "file-x", "endpoint": CHAT}
    for window, seconds in {"24h": 86_400, "90s": 90, "5m": 300, "7d": 604_800}.items():
        asked = read_batch(body | {"completion_window": window}, GatewaySettings())
        assert asked.expires_at - asked.created_at == seconds


def test_every_field_of_openais_bodies_is_served():
    assert set(fields_of(BatchCreateParams)) == set(batches.FIELDS)
    assert set(fields_of(FileCreateParams)) == {"file", "purpose", "expires_after"}
    assert uploads.PURPOSE == "batch"
