"""Messages, tools and what goes to the chat template: which forms are taken, and which refused."""

import json
from typing import Any

import pytest

from producer.contract import GenerationRequest, InvalidRequest
from producer.contract.chat import MAX_PROMPT_CHARS, MAX_TOOLS

F = {"name": "f", "arguments": ""}
CHAT = [{"role": "user", "content": "Hi"}]


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}], **more}


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_content_may_be_missing_beside_calls(content: dict[str, Any]) -> None:
    [message] = GenerationRequest.parse({"messages": [called("{}", **content)]}).messages or ()

    assert message.content == ""


@pytest.mark.parametrize("arguments", ['{"city": "Zürich"}', {"city": "Zürich"}])
def test_arguments_of_either_form_go_out_as_text(arguments: Any) -> None:
    wire = GenerationRequest.parse({"messages": [called(arguments)]}).to_wire()

    sent = wire["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert sent == '{"city": "Zürich"}'


def test_what_a_model_wrote_wrongly_can_be_sent_back() -> None:
    GenerationRequest.parse({"messages": [called('{"city": ')]})


def test_a_schema_goes_out_as_it_came() -> None:
    schema = {"type": "object", "properties": {"b": {"default": None}, "a": {"enum": [1.5, True, "ü"]}}}
    request = GenerationRequest.parse({"messages": CHAT, "tools": [tool(description="F.", parameters=schema)]})

    function = json.loads(json.dumps(request.to_wire()))["tools"][0]["function"]
    assert list(function) == ["name", "description", "parameters"]
    assert json.dumps(function["parameters"]) == json.dumps(schema)


@pytest.mark.parametrize(
    ("fields", "calls_tools"),
    [
        ({}, False),
        ({"tools": [tool()]}, True),
        ({"tools": [tool()], "tool_choice": "auto"}, True),
        ({"tools": [tool()], "tool_choice": tool()}, True),
        ({"tools": [tool()], "tool_choice": "none"}, False),
    ],
)
def test_calls_are_looked_for_where_the_model_is_told_of_tools(fields: dict[str, Any], calls_tools: bool) -> None:
    assert GenerationRequest.parse({"messages": CHAT, **fields}).calls_tools is calls_tools


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "a part of the type 'image_url' is",
        ),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, 'a part of a content is {"type": "text"'),
        ({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}, "and nothing else"),
        ({"role": "user", "content": ["a"]}, 'a part of a content is {"type": "text"'),
        ({"role": "user", "content": None}, "messages.0.content: Input should be a valid string"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a" * MAX_PROMPT_CHARS}] * 2},
            "messages.0.content: ",
        ),
        ({"role": "assistant", "tool_calls": []}, "messages.0.content: it is missing"),
        (called("{}", role="user"), "tool_calls are an assistant's"),
        (called(5), "messages.0.tool_calls.0.function.arguments: "),
        (
            called("{}", tool_calls=[{"function": {"name": "f g", "arguments": ""}}]),
            "a function's name is 1 to 64",
        ),
        (called("{}", tool_calls=[{"type": "custom", "function": F}]), "messages.0.tool_calls.0.type: "),
        ({"role": "user", "content": "a", "tool_call_id": "x"}, "tool_call_id is of a tool's answer"),
        ({"role": "tool", "content": "a", "reasoning": "x"}, "reasoning is an assistant's"),
    ],
)
def test_a_message_that_is_none_is_refused(message: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GenerationRequest.parse({"messages": [message]})

    assert said in str(refused.value)
    assert "; " not in str(refused.value)  # one fault is one


NESTED: dict[str, Any] = {}
for _ in range(300):
    NESTED = {"properties": NESTED}


LARGE = {"type": "object", "description": "a" * 65_536}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [tool(parameters=LARGE)]},
        {"tools": [tool(strict=True)], "tool_choice": "none", "ignore_eos": True},
        {"tools": [tool()], "tool_choice": "none", "response_format": {"type": "json_object"}},
    ],
)
def test_what_holds_the_model_to_nothing_excludes_nothing(fields: dict[str, Any]) -> None:
    GenerationRequest.parse({"messages": CHAT, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": []}, "tools: "),
        ({"tools": [tool(), tool()]}, "the function 'f' is there twice"),
        ({"tools": [tool(f"f{number}") for number in range(MAX_TOOLS + 1)]}, "at most 128 items"),
        ({"tools": [tool("f g")]}, "tools.0.function.name: a function's name is 1 to 64 letters"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type: "),
        ({"tools": [{"name": "f"}]}, "tools.0.type: it is missing"),
        ({"tools": [tool(parameters="{}")]}, "tools.0.function.parameters: "),
        ({"tools": [tool(parameters={"x": "a" * MAX_PROMPT_CHARS})]}, "takes more than 4000000 characters"),
        ({"tools": [tool(parameters=NESTED)]}, "recursion limit"),
        ({"tools": [tool(strict="yes")]}, "tools.0.function.strict: "),
        ({"tool_choice": "auto"}, "tool_choice says what becomes of tools, of which there are none"),
        ({"tools": [tool()], "tool_choice": "always"}, "tool_choice: it is none, auto, required, or {"),
        ({"tools": [tool()], "tool_choice": tool("g")}, "names the function 'g', which is not among the tools"),
        (
            {"tools": [tool()], "messages": None, "prompt": "a"},
            "tools goes through the chat template: give messages",
        ),
        ({"chat_template_kwargs": {"a": 1}, "messages": None, "prompt": "a"}, "chat_template_kwargs goes through"),
        (
            {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
            "'chat_template' is not for the template to read",
        ),
        ({"chat_template_kwargs": {"a b": 1}}, "'a b' is no name of a variable"),
        ({"chat_template_kwargs": {f"a{number}": 1 for number in range(65)}}, "at most 64 items"),
        ({"chat_template_kwargs": {"a": "a" * MAX_PROMPT_CHARS}}, "takes more than 4000000 characters"),
    ],
)
def test_tools_that_are_none_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GenerationRequest.parse({"messages": CHAT, **fields})

    assert said in str(refused.value)
