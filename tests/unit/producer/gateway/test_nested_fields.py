"""Fields within fields of OpenAI's bodies: each is served, or refused by its name, and none is passed over."""

from typing import Any, get_type_hints

import pytest
from openai.types.chat import completion_create_params as chat
from openai.types.responses import response_create_params as response

from producer.gateway.api_keys import OPEN
from producer.gateway.asked import read_asked
from producer.gateway.errors import ApiError
from producer.gateway.response_bodies import read_response
from producer.gateway.settings import GatewaySettings

from .fields import fields_of, forms_of, value_of

BODIES: dict[str, dict[str, Any]] = {
    "chat": fields_of(*chat.CompletionCreateParams.__args__),
    "responses": fields_of(*response.ResponseCreateParams.__args__),
}
IN_LISTS = {"messages", "input", "tools"}
NESTED = {
    "chat": ("messages", "tools", "tool_choice", "response_format", "stream_options"),
    "responses": ("input", "tools", "tool_choice", "text"),
}
"""Fields that are served and have fields. Of all others test_fields.py and test_responses.py tell."""
FUNCTION = {"name": "x", "parameters": {"type": "object"}}
BESIDE: dict[str, dict[str, Any]] = {
    "chat": {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
    "responses": {"model": "tiny", "input": "Hi"},
}
TOOLS = {
    "chat": [{"type": "function", "function": FUNCTION}],
    "responses": [{"type": "function", **FUNCTION}],
}
WITHOUT_EFFECT = {
    ("ResponseFunctionToolCallParam", "id"), ("ResponseFunctionToolCallParam", "status"),
    ("FunctionCallOutput", "id"), ("FunctionCallOutput", "status"), ("Message", "type"), ("Message", "status"),
    ("ResponseReasoningItemParam", "status"), ("ResponseOutputMessageParam", "phase"),
    ("EasyInputMessageParam", "type"), ("EasyInputMessageParam", "phase"),
}  # fmt: skip
"""What a response says of its items, and takes back: where an item was, and how it ended, changes nothing."""
CALLED = {"id": "x", "type": "function", "function": {"name": "x", "arguments": "{}"}}
VALUES: dict[str, Any] = {
    "function": FUNCTION, "json_schema": {"name": "x", "schema": {"type": "object"}},
    "parameters": {"type": "object"}, "schema": {"type": "object"}, "tool_calls": [CALLED],
    "summary": [{"type": "summary_text", "text": "x"}], "format": {"type": "json_object"}, "strict": True,
    "include_obfuscation": True, "verbosity": "low", "tools": [{"type": "function", "name": "x"}],
}  # fmt: skip
OF_FORMS: dict[str, dict[str, Any]] = {
    "ChatCompletionAssistantMessageParam": {"content": "Hi"},
    "ChatCompletionNamedToolChoiceParam": {"function": {"name": "x"}},
    "FunctionCallOutput": {"call_id": "x"},
}
"""What a form must have here beside what its type says."""


def read(kind: str, name: str, value: Any) -> Any:
    """What comes of a body with that value.  Raises ApiError."""
    if name == "input":  # so that there is a call that an output can answer
        value = [{"type": "function_call", "call_id": "x", "name": "x", "arguments": "{}"}, value]
    elif name in IN_LISTS:
        value = [value]
    body = BESIDE[kind] | {"tools": TOOLS[kind]} | {name: value}
    if name in ("text", "response_format"):
        del body["tools"]
    if kind == "chat":
        return read_asked(body, "chat", OPEN, GatewaySettings())
    asked = read_response(body)
    return asked.request([], OPEN, GatewaySettings()), asked.fields, asked.items


def minimal(form: type) -> dict[str, Any]:
    """What a form must have."""
    value = value_of(form)
    return value | {name: VALUES[name] for name in value.keys() & VALUES.keys()} | OF_FORMS.get(form.__name__, {})


FORMS = [
    (kind, name, form) for kind, names in NESTED.items() for name in names for form in forms_of(BODIES[kind][name])
]


@pytest.mark.parametrize(("kind", "name", "form"), FORMS, ids=lambda each: getattr(each, "__name__", each))
def test_no_field_of_a_field_is_passed_over(kind: str, name: str, form: type):
    plain = minimal(form)
    asked = outcome(kind, name, plain)
    assert not isinstance(asked, AssertionError), str(asked)
    assert (form.__name__ in SERVED) == (not isinstance(asked, ApiError)), str(asked)
    if isinstance(asked, ApiError):
        return
    for field, hint in get_type_hints(form).items():
        if field in plain or (form.__name__, field) in WITHOUT_EFFECT:
            continue
        value = VALUES.get(field, value_of(hint))
        got = outcome(kind, name, {**plain, field: value})
        assert got != asked, f"{field} is passed over"
        assert not isinstance(got, AssertionError), str(got)
        assert not isinstance(got, ApiError) or field in got.message


def outcome(kind: str, name: str, value: Any) -> Any:
    """What comes of a body with that value, or why it is refused, by the name of the field."""
    try:
        return read(kind, name, value)
    except ApiError as error:
        named = (error.param or "").partition("[")[0].partition(".")[0]
        return error if (error.status, named) == (400, name) else AssertionError(error.to_json())


SERVED = {
    "ChatCompletionDeveloperMessageParam", "ChatCompletionSystemMessageParam", "ChatCompletionUserMessageParam",
    "ChatCompletionAssistantMessageParam", "ChatCompletionToolMessageParam", "ResponseFormatText",
    "ResponseFormatJSONSchema", "ResponseFormatJSONObject", "ChatCompletionStreamOptionsParam",
    "ChatCompletionNamedToolChoiceParam", "ChatCompletionFunctionToolParam", "EasyInputMessageParam", "Message",
    "ResponseOutputMessageParam", "ResponseFunctionToolCallParam", "FunctionCallOutput",
    "ResponseReasoningItemParam", "ResponseTextConfigParam", "ToolChoiceAllowedParam",
    "ToolChoiceFunctionParam", "FunctionToolParam",
}  # fmt: skip
"""Forms that are served. Each other one is refused by the name of the field that it stands in."""
