"""What a request may hold, and how it is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from producer.contract import GenerationRequest, InvalidRequest
from producer.contract.requests import MAX_PROMPT_CHARS

from .strategies import generation_requests

SECRET = "a prompt that no message may quote"


@given(generation_requests)
def test_every_request_survives_the_wire(request: GenerationRequest) -> None:
    wire = json.loads(json.dumps(request.to_wire()))

    assert GenerationRequest.parse(wire) == request


def test_the_wire_form_leaves_out_what_stands_at_its_default() -> None:
    assert GenerationRequest(prompt="Hi", temperature=0.0, seed=0).to_wire() == {"prompt": "Hi", "seed": 0}


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GenerationRequest(prompt="Hi").prompt = "Ho"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "exactly one of prompt, messages and prompt_token_ids, not none"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "not prompt and messages"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "not prompt and prompt_token_ids"),
        ({"prompt": ""}, "prompt: "),
        ({"prompt": 5}, "prompt: "),
        ({"prompt": "a" * (MAX_PROMPT_CHARS + 1)}, "prompt: "),
        ({"prompt": "\ud800"}, "lone surrogate, which is no text"),
        ({"prompt": b"bytes"}, "not JSON"),
        ({"prompt": {SECRET}}, "not JSON"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "user", "content": "a", "name": "x"}]}, "messages.0.name: Extra inputs"),
        ({"prompt_token_ids": []}, "prompt_token_ids: "),
        ({"prompt_token_ids": [-1]}, "prompt_token_ids.0: "),
        ({"prompt_token_ids": [1.5]}, "prompt_token_ids.0: "),
        ({"prompt_token_ids": ["1"]}, "prompt_token_ids.0: "),
        ({"prompt": "a", "temprature": 1}, "temprature: Extra inputs are not permitted"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens: "),
        ({"prompt": "a", "max_new_tokens": "32"}, "max_new_tokens: "),
        ({"prompt": "a", "max_new_tokens": True}, "max_new_tokens: "),
        ({"prompt": "a", "max_new_tokens": 1, "min_new_tokens": 2}, "min_new_tokens must not be above"),
        ({"prompt": "a", "temperature": math.nan}, "temperature: "),
        ({"prompt": "a", "temperature": math.inf}, "temperature: "),
        ({"prompt": "a", "temperature": -0.1}, "temperature: "),
        ({"prompt": "a", "top_p": 0}, "top_p: "),
        ({"prompt": "a", "top_p": 1.1}, "top_p: "),
        ({"prompt": "a", "top_k": -1}, "top_k: "),
        ({"prompt": "a", "min_p": 2}, "min_p: "),
        ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty: "),
        ({"prompt": "a", "presence_penalty": 101}, "presence_penalty: "),
        ({"prompt": "a", "frequency_penalty": -101}, "frequency_penalty: "),
        ({"prompt": "a", "seed": -1}, "seed: "),
        ({"prompt": "a", "seed": 2**63}, "seed: "),
        ({"prompt": "a", "stop": "END"}, "stop: "),
        ({"prompt": "a", "stop": [""]}, "stop.0: "),
        ({"prompt": "a", "stop": ["x"] * 17}, "stop: "),
        ({"prompt": "a", "logprobs": 21}, "logprobs: "),
        ({"prompt": "a", "ignore_eos": 1}, "ignore_eos: "),
        (None, "invalid request"),
        ("a prompt alone", "invalid request"),
        ([["prompt", "a"]], "invalid request"),
    ],
)
def test_a_bad_request_is_refused_with_the_name_of_the_field(fields: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GenerationRequest.parse(fields)

    assert said in str(refused.value)


def test_a_request_nested_too_deeply_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(InvalidRequest, match="not JSON"):
        GenerationRequest.parse({"messages": nested})


def test_no_message_quotes_the_prompt() -> None:
    with pytest.raises(InvalidRequest) as refused:
        GenerationRequest.parse({"prompt": SECRET, "temperature": -1, "messages": SECRET, "stop": [SECRET, 1]})

    assert SECRET not in str(refused.value)


def test_a_request_with_many_faults_names_the_first_five() -> None:
    with pytest.raises(InvalidRequest, match=r"and 3 more$"):
        GenerationRequest.parse({"prompt": "a", **{f"unknown_{number}": 1 for number in range(8)}})
