"""Whatever a body holds, it is read or refused with its status: nothing of it is an error of the gateway's own."""

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from producer.gateway.api_keys import OPEN
from producer.gateway.asked import read_asked
from producer.gateway.errors import ApiError
from producer.gateway.openapi import document
from producer.gateway.response_bodies import read_response
from producer.gateway.settings import GatewaySettings

from . import test_fields, test_responses

NAMES = sorted(
    {
        *test_fields.BODIES["chat"][1],
        *test_fields.BODIES["completions"][1],
        *test_responses.HINTS,
        *(name for schema in document()["components"]["schemas"].values() for name in schema["properties"]),
        *("role", "content", "type", "text", "include_usage", "format", "unknown"),
    }
)
WORDS = (
    "",
    "user",
    "assistant",
    "message",
    "input_text",
    "text",
    "flex",
    "none",
    "auto",
    "tiny",
    "你好",
    "\x00",
    "x" * 600,
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
ANYTHING = st.recursive(
    PLAIN | st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4)
BASES: dict[str, dict[str, Any]] = {
    "chat": test_fields.BODIES["chat"][0],
    "completions": test_fields.BODIES["completions"][0],
    "responses": test_responses.BODY,
}


@pytest.mark.parametrize("kind", BASES)
@settings(max_examples=60, deadline=None)
@given(fields=FIELDS)
def test_any_body_is_read_or_refused(kind: str, fields: dict[str, Any]):
    refused = refusal_of(kind, json.loads(json.dumps(BASES[kind] | fields)))
    if refused is not None:
        assert 400 <= refused.status < 500
        assert json.loads(refused.to_json())["error"]["message"]


def refusal_of(kind: str, body: dict[str, Any]) -> ApiError | None:
    """Why a body is refused, if it is."""
    try:
        if kind == "responses":
            read_response(body).request([], OPEN, GatewaySettings())
        else:
            read_asked(body, kind, "alice", GatewaySettings())
    except ApiError as error:
        return error
    return None
