"""Requests grow by fields: who is asked about them, and what is refused before a worker sees it."""

import re

import pytest

from producer.contract import (
    BASE_REQUEST_FIELDS,
    REQUEST_FIELDS,
    VERSION,
    GenerationRequest,
    InvalidRequest,
    check_understood,
)
from producer.contract.compatibility import fields_beyond_base

NEWER = {"prompt": "Hi", "reasoning": "high"}
NEWEST = {**NEWER, "mood": "calm"}
KNOWS_REASONING = REQUEST_FIELDS | {"reasoning"}
KNOWS_MOODS = REQUEST_FIELDS | {"mood"}


def test_the_base_is_the_first_release_for_ever() -> None:
    """Nothing is added here: a field that is would reach workers that refuse it."""
    assert sorted(BASE_REQUEST_FIELDS) == [
        "add_special_tokens", "frequency_penalty", "ignore_eos", "logprobs", "max_new_tokens", "messages",
        "min_new_tokens", "min_p", "presence_penalty", "prompt", "prompt_token_ids", "repetition_penalty",
        "seed", "skip_special_tokens", "stop", "temperature", "top_k", "top_p",
    ]  # fmt: skip
    assert BASE_REQUEST_FIELDS < REQUEST_FIELDS
    assert {"prompt_lookup", "cache_salt", "output_token_ids"} <= REQUEST_FIELDS - BASE_REQUEST_FIELDS
    assert {"response_format", "grammar", "logit_bias", "bad_words", "allowed_token_ids"} <= REQUEST_FIELDS
    assert {"tools", "messages.tool_calls"} <= REQUEST_FIELDS - BASE_REQUEST_FIELDS


def test_nobody_is_asked_about_a_request_of_the_base() -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    assert not fields_beyond_base(dict.fromkeys(BASE_REQUEST_FIELDS, 1) | chat)
    assert fields_beyond_base(NEWEST) == {"reasoning", "mood"}


def test_a_worker_is_asked_about_what_is_new_within_messages() -> None:
    called = {"function": {"name": "f", "arguments": {}}}
    chat = [{"role": "assistant", "tool_calls": [called]}, {"role": "tool", "content": "1", "tool_call_id": "a"}]
    wire = GenerationRequest.parse({"messages": chat}).to_wire()

    assert fields_beyond_base(wire) == {"messages.tool_calls", "messages.tool_call_id"}
    with pytest.raises(
        InvalidRequest, match=r"no live worker understands 'messages\.tool_call_id' and 'messages\.tool"
    ):
        check_understood([fields_beyond_base(wire)], [BASE_REQUEST_FIELDS])
    check_understood([fields_beyond_base(wire)], [REQUEST_FIELDS])


def test_a_content_in_parts_is_one_that_every_worker_knows() -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]
    wire = GenerationRequest.parse({"messages": [{"role": "user", "content": parts}]}).to_wire()

    assert wire == {"messages": [{"role": "user", "content": "Hi\nyou"}]}
    assert not fields_beyond_base(wire)


@pytest.mark.parametrize(
    ("wires", "published"),
    [
        ([NEWER], []),  # nobody is there: the worker that comes may be a newer one
        ([NEWER], [None, KNOWS_REASONING]),
        ([{"prompt": "Hi"}], [None]),
        ([{"prompt": "Hi"}, {"prompt": "Hi", "prompt_lookup": True}], [REQUEST_FIELDS]),
        ([], [None]),
    ],
)
def test_what_a_live_worker_understands_is_let_through(
    wires: list[dict], published: list[frozenset[str] | None]
) -> None:
    check_understood(map(fields_beyond_base, wires), published)


@pytest.mark.parametrize(
    ("wires", "published", "named"),
    [
        ([{"prompt": "Hi", "prompt_lookup": False}], [None], "'prompt_lookup'"),
        ([{"prompt": "Hi", "output_token_ids": [1]}], [None], "'output_token_ids'"),
        ([{"prompt": "Hi", "response_format": {"type": "json_object"}}], [None], "'response_format'"),
        ([{"prompt": "Hi", "logit_bias": {"5": 1}, "grammar": {}}], [None], "'grammar' and 'logit_bias'"),
        ([NEWER], [None, REQUEST_FIELDS], "'reasoning'"),
        ([{"prompt": "Hi"}, NEWER], [None], "'reasoning'"),
        ([NEWEST], [None], "'mood' and 'reasoning'"),
        ([NEWEST], [KNOWS_REASONING], "'mood'"),
        # Each is known to one of them, and the whole request to none.
        ([NEWEST], [KNOWS_REASONING, KNOWS_MOODS], "'mood' and 'reasoning'"),
        ([NEWER], [frozenset()], "'reasoning'"),
    ],
)
def test_what_no_live_worker_understands_is_refused_by_name(
    wires: list[dict], published: list[frozenset[str] | None], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^no live worker understands {named}: upgrade the workers"):
        check_understood(map(fields_beyond_base, wires), published)


def test_the_version_is_that_of_the_package() -> None:
    assert re.match(r"\d+\.\d+", VERSION)
