"""What is read as JSON can be written as JSON."""

import json

import pytest

from producer.strict_json import read_json


@pytest.mark.parametrize(
    "raw",
    [b'{"a": [1, -2.5, 1e308, null, true, "NaN", "1e999"]}', b'"\\ud83d\\ude00"', '"\u4f60"'.encode(), b" 1\r\n"],
)
def test_json_is_read(raw: bytes):
    assert read_json(raw) == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a": 1e999}', "1e999 is beyond every number"),
        (b"[-1e9999999999999999999999]", "-1e99"),
        (b"[" + b"9" * 5_000 + b"]", "4300 digits"),
        (b'{"a": NaN}', "NaN is no value of JSON"),
        (b"-Infinity", "-Infinity is no value of JSON"),
        (b'{"\\udc00": 1}', "lone surrogate"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (json.dumps({"a": 1}).encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
    ],
)
def test_what_could_not_be_written_again_is_refused(raw: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        read_json(raw)
