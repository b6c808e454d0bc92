"""Every field of OpenAI's bodies is served, or refused by its name. The README's table is made here."""

from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params as text
from openai.types.chat import completion_create_params as chat

import producer.gateway
from producer.gateway.api_keys import OPEN
from producer.gateway.asked import read_asked
from producer.gateway.errors import ApiError
from producer.gateway.settings import GatewaySettings

from .fields import fields_of, value_of

BODIES = {
    "chat": (
        {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]},
        fields_of(*chat.CompletionCreateParams.__args__),
    ),
    "completions": ({"model": "tiny", "prompt": "Hi"}, fields_of(*text.CompletionCreateParams.__args__)),
}
VALUES: dict[str, Any] = {
    "messages": [{"role": "system", "content": "Be brief."}],
    "prompt": "Ho",
    "model": "large",
    "service_tier": "flex",
    "temperature": 0.3,
    "top_p": 0.3,
    "verbosity": "low",
    "stream_options": {"include_usage": True},
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "explicit"},
    "reasoning_effort": "high",
    "modalities": ["audio"],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "response_format": {"type": "json_object"},
    "logit_bias": {"5": 2},
    "function_call": {"name": "f"},
    "tool_choice": "required",
}
"""In place of the first that the type has."""
TOOLS = [{"type": "function", "function": {"name": "f"}}]
BESIDE = {"stream_options": {"stream": True}, "top_logprobs": {"logprobs": True}, "tool_choice": {"tools": TOOLS}}
WITHOUT_EFFECT = {
    "prompt_cache_key": "what was read of a prompt is used again without one",
    "parallel_tool_calls": "says nothing where there are no tools",
}
"""Taken, and nothing comes of it, for that reason."""
README = Path(producer.gateway.__file__).with_name("README.md")


def outcome(kind: str, name: str) -> str:
    """What becomes of a field: `served`, `refused`, or why it is taken and nothing comes of it."""
    body, hints = BODIES[kind]
    beside = body | BESIDE.get(name, {})
    value = VALUES.get(name, value_of(hints[name]))
    plain = read_asked(beside, kind, OPEN, GatewaySettings())
    try:
        asked = read_asked(beside | {name: value}, kind, OPEN, GatewaySettings())
    except ApiError as error:
        return "refused" if (error.status, (error.param or "").partition(".")[0]) == (400, name) else error.message
    if asked == plain:
        return WITHOUT_EFFECT[name]
    return "served"


def table() -> str:
    """As it stands in the README."""
    rows = ["| field | chat | completions |", "|---|---|---|"]
    for name in sorted(set(BODIES["chat"][1]) | set(BODIES["completions"][1])):
        cells = [outcome(kind, name) if name in hints else "" for kind, (_, hints) in BODIES.items()]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_every_field_is_in_the_table_of_the_readme():
    assert table() in README.read_text(encoding="utf-8"), f"put this into {README}:\n{table()}"


@pytest.mark.parametrize("kind", BODIES)
def test_a_field_that_openai_does_not_know_is_refused(kind: str):
    with pytest.raises(ApiError) as refused:
        read_asked(BODIES[kind][0] | {"temprature": 1}, kind, OPEN, GatewaySettings())
    assert refused.value.param == "temprature"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 129}, "n"),
        ({"n": "2"}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"service_tier": 3}, "service_tier"),
        ({"store": 1}, "store"),
        ({"user": 7}, "user"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"seed": -1}, "seed"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"prompt": "Hi"}, "prompt"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": TOOLS, "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"max_tokens": 1, "min_tokens": 2}, "min_tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_the_clients_own_name(fields: dict[str, Any], param: str):
    with pytest.raises(ApiError) as refused:
        read_asked(BODIES["chat"][0] | fields, "chat", OPEN, GatewaySettings())
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param.rpartition(".")[2] in refused.value.message


@pytest.mark.parametrize(
    ("fields", "is_same"),
    [
        (
            {
                "n": 1,
                "stream": False,
                "tools": [],
                "response_format": {"type": "text"},
                "tool_choice": "auto",
                "logit_bias": {},
            },
            True,
        ),
        (
            {
                "reasoning_effort": "none",
                "verbosity": "medium",
                "modalities": ["text"],
                "prompt_cache_retention": "in_memory",
            },
            True,
        ),
        (
            {
                "temperature": None,
                "stop": None,
                "metadata": None,
                "audio": None,
                "prompt_cache_options": {"mode": "implicit"},
            },
            True,
        ),
        ({"temperature": 1.0}, True),
        ({"temperature": 0.9}, False),
    ],
)
def test_values_that_say_what_is_done_anyway(fields: dict[str, Any], is_same: bool):
    body = BODIES["chat"][0]
    asked, plain = (read_asked(each, "chat", OPEN, GatewaySettings()) for each in (body | fields, body))
    assert (asked == plain) == is_same


def test_a_long_prompt_is_not_multiplied_beyond_the_size_of_a_body():
    body = BODIES["chat"][0] | {"messages": [{"role": "user", "content": "x" * 1000}]}
    chosen = GatewaySettings(max_body_bytes=5_000)
    assert len(read_asked(body | {"n": 4}, "chat", OPEN, chosen).requests) == 4
    with pytest.raises(ApiError) as refused:
        read_asked(body | {"n": 5}, "chat", OPEN, chosen)
    assert refused.value.param == "n"


@pytest.mark.parametrize("owner", [OPEN, "alice"])
def test_a_salt_is_a_text(owner: str):
    with pytest.raises(ApiError) as refused:
        read_asked(BODIES["chat"][0] | {"cache_salt": 3}, "chat", owner, GatewaySettings())
    assert refused.value.param == "cache_salt"


def test_prompts_of_a_completion():
    for prompt, count in ((["a", "b"], 2), ([1, 2], 1), ([[1, 2], [3]], 2), (["a"], 1), ("ab", 1)):
        asked = read_asked({"model": "tiny", "prompt": prompt}, "completions", OPEN, GatewaySettings())
        assert len(asked.requests) == count
