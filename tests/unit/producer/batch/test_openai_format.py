"""OpenAI's batch format: what a body means here, what is refused, and whether its own types read the answers."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from producer.batch.answers import Answer
from producer.batch.openai_answers import openai_line
from producer.batch.openai_rows import CHAT, COMPLETIONS, request_fields
from producer.batch.rows import Row
from producer.contract import (
    FunctionCall,
    GenerationRequest,
    GenerationResult,
    InvalidRequest,
    TokenLogprob,
    ToolCall,
    Usage,
)
from producer.submission import parse_request

FIXTURES = Path(__file__).parents[3] / "fixtures"
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CHAT_BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}


def request_of(body: dict[str, Any], url: str = CHAT, **options: Any) -> GenerationRequest:
    row = {"method": "POST", "url": url, "body": body}
    return parse_request(request_fields(row, options), {})


def test_a_chat_body_in_our_words() -> None:
    body = {
        **CHAT_BODY,
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": "END",
        "presence_penalty": 1,
        "frequency_penalty": 0.5,
        "logprobs": True,
        "top_logprobs": 2,
        "n": 1,
        "stream": False,
        "user": "me",
        "tools": [],
        "response_format": {"type": "text"},
        "logit_bias": None,
    }
    request = request_of(body)
    assert request.to_wire() == {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "logprobs": 2,
    }


def test_what_is_not_said_is_openais_default_or_the_commands_option() -> None:
    assert request_of(CHAT_BODY).temperature == 1.0
    assert request_of(CHAT_BODY, temperature=0.0).temperature == 0.0
    assert request_of({**CHAT_BODY, "temperature": 0.3}, temperature=0.0).temperature == 0.3
    assert request_of(CHAT_BODY).max_new_tokens is None
    assert request_of({"prompt": "Hi"}, COMPLETIONS).max_new_tokens == 16


def test_what_binds_an_answer_is_taken() -> None:
    asked = request_of({**CHAT_BODY, "response_format": {"type": "json_object"}, "logit_bias": {"5": 1}})
    assert asked.to_wire().keys() >= {"response_format", "logit_bias"}
    free = request_of({**CHAT_BODY, "logit_bias": {}, "response_format": {"type": "text"}})
    assert not free.to_wire().keys() & {"response_format", "logit_bias"}


def test_turns_of_a_chat() -> None:
    messages = [
        {"role": "developer", "content": "Be brief.", "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
    ]
    turns = request_of({"messages": messages}).messages or ()
    assert [(turn.role, turn.content) for turn in turns] == [("system", "Be brief."), ("user", "one \ntwo")]


def test_tools_and_the_turns_that_call_them() -> None:
    call = {"id": "abc", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc", "content": "sunny"},
    ]
    request = request_of(
        {"messages": messages, "tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": True}
    )
    assert [tool.function.name for tool in request.tools or ()] == ["f"]
    assert [turn.tool_call_id for turn in request.messages or ()] == [None, "abc"]
    for given in ({"tools": []}, {"tool_choice": "auto"}, {"parallel_tool_calls": False}):
        assert request_of({**CHAT_BODY, **given}) == request_of(CHAT_BODY)


@pytest.mark.parametrize(("content", "said"), [("", None), ("See:", "See:")])
def test_an_answer_that_calls_a_tool_is_openais(content: str, said: str | None) -> None:
    call = ToolCall(id="abc", function=FunctionCall(name="f", arguments="{}"))
    fields = {"finish_reason": "tool_calls", "content": content, "tool_calls": (call,), "reasoning": "Hm."}
    body = openai_line(answer(CHAT, **fields))["response"]["body"]

    [choice] = body["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", said)
    assert choice["message"]["tool_calls"] == [call.model_dump()]
    assert choice["message"]["reasoning"] == "Hm."
    schemas = json.loads((FIXTURES / "openai-bodies.json").read_text())
    jsonschema.validate(body, schemas["chat.completion"])


@pytest.mark.parametrize(("prompt", "field"), [("Hi", "prompt"), (["Hi"], "prompt"), ([1, 2], "prompt_token_ids")])
def test_prompts_of_a_completion(prompt: Any, field: str) -> None:
    assert field in request_of({"prompt": prompt, "logprobs": 3}, COMPLETIONS).to_wire()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**CHAT_BODY, "n": 2}, "body.n: a job has one answer"),
        ({**CHAT_BODY, "tools": [{"type": "web_search"}]}, "tools.0.type: "),
        (
            {**CHAT_BODY, "tools": TOOLS, "parallel_tool_calls": False},
            "body.parallel_tool_calls: not to be had here",
        ),
        (
            {**CHAT_BODY, "tool_choice": "required"},
            "tool_choice says what becomes of tools, of which there are none",
        ),
        ({**CHAT_BODY, "functions": [{"name": "f"}]}, "body.functions: they are called tools"),
        ({**CHAT_BODY, "response_format": {"type": "xml"}}, "response_format: Input tag 'xml'"),
        ({**CHAT_BODY, "logit_bias": {"a": 1}}, "logit_bias.a"),
        ({**CHAT_BODY, "reasoning_effort": "low"}, "body.reasoning_effort: there is no such field here"),
        ({**CHAT_BODY, "stream": True}, "body.stream: leave it out"),
        ({**CHAT_BODY, "top_logprobs": 3}, "it wants logprobs: true"),
        ({**CHAT_BODY, "temperature": "hot"}, "temperature"),
        ({"prompt": "Hi"}, f"the body of {CHAT} has messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "a part of the type 'image_url' is not read here",
        ),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [3]}, "messages"),
    ],
)
def test_what_would_change_the_meaning_is_refused(body: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        request_of(body)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        {"url": "/v1/embeddings", "body": {}},
        {"url": CHAT, "body": "Hi"},
        {"url": CHAT, "body": CHAT_BODY, "method": "GET"},
        {"body": CHAT_BODY},
        {"url": [CHAT], "body": CHAT_BODY},
    ],
)
def test_a_row_of_another_kind(row: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        request_fields(row, {})


def answer(endpoint: str, **fields: Any) -> Answer:
    row = Row(3, "batch-0-3-0", GenerationRequest(prompt="Hi"), custom_id="a", endpoint=endpoint)
    fields = {"status": "finished", "finish_reason": "length", **fields}
    usage = Usage(prompt_tokens=2, completion_tokens=2, cached_tokens=1)
    result = GenerationResult(
        job_id=row.job_id, model="tiny", text="你好", token_ids=(5, 6), usage=usage, **fields
    )
    logprobs = [TokenLogprob(logprob=-0.5, top=((5, -0.5), (9, -2.0))), TokenLogprob(logprob=-0.1)]
    return Answer(row, result, logprobs=logprobs)


def lines() -> list[dict[str, Any]]:
    return [openai_line(answer(endpoint)) for endpoint in (CHAT, COMPLETIONS)]


def test_the_output_of_both_endpoints() -> None:
    chat, completion = lines()
    assert chat["id"] == "batch_req_batch-0-3-0"
    assert (chat["custom_id"], chat["error"], chat["response"]["status_code"]) == ("a", None, 200)
    body = chat["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "你好", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1] == {
        "token": "token_id:9",
        "logprob": -2.0,
        "bytes": None,
    }
    assert body["usage"]["total_tokens"] == 4
    legacy = completion["response"]["body"]
    assert (legacy["object"], legacy["choices"][0]["text"]) == ("text_completion", "你好")
    assert legacy["choices"][0]["logprobs"]["tokens"] == ["token_id:5", "token_id:6"]


def test_a_failed_row_has_an_error_and_no_response() -> None:
    failed = answer(CHAT, status="failed", error={"code": "timeout", "message": "too long"})
    line = openai_line(failed)
    assert line["response"] is None
    assert line["error"] == {"code": "timeout", "message": "too long"}
    cancelled = openai_line(answer(CHAT, status="cancelled", finish_reason="cancelled"))
    assert cancelled["error"]["code"] == "cancelled"


def test_the_output_has_the_form_that_openai_python_wants() -> None:
    """Against schemas of its types, as `model_json_schema` gave them; the test below asks the types themselves."""
    schemas = json.loads((FIXTURES / "openai-bodies.json").read_text())
    for line in lines():
        body = line["response"]["body"]
        jsonschema.validate(body, schemas[body["object"]])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**body, "created": "now"}, schemas[body["object"]])


def test_openai_python_reads_the_answers() -> None:
    types = pytest.importorskip("openai.types", reason="pip install openai")
    chat, completion = (json.loads(json.dumps(line))["response"]["body"] for line in lines())
    read = types.chat.ChatCompletion.model_validate(chat, strict=True)
    assert read.choices[0].message.content == "你好"
    assert read.choices[0].logprobs.content[0].top_logprobs[0].token == "token_id:5"
    assert read.usage.prompt_tokens_details.cached_tokens == 1
    legacy = types.Completion.model_validate(completion, strict=True)
    assert legacy.choices[0].text == "你好"
