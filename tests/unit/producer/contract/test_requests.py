"""What a request may hold, and how it is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from producer.contract import VERSION, GenerationRequest, InvalidRequest
from producer.contract.requests import MAX_PROMPT_CHARS

from .strategies import generation_requests

SECRET = "a prompt that no message may quote"
CHAT = [{"role": "user", "content": "b"}]
SCHEMA = {"name": "x", "schema": {"minimum": math.inf}}


@given(generation_requests)
def test_every_request_survives_the_wire(request: GenerationRequest) -> None:
    wire = json.loads(json.dumps(request.to_wire()))

    assert GenerationRequest.parse(wire) == request


def test_the_wire_form_leaves_out_what_stands_at_its_default() -> None:
    assert GenerationRequest(prompt="Hi", temperature=0.0, seed=0).to_wire() == {"prompt": "Hi", "seed": 0}


# Each field at its default, as a caller writes it who wants to be sure.
DEFAULTS = {
    name: field.get_default(call_default_factory=True) for name, field in GenerationRequest.model_fields.items()
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_field_is_sent_at_its_default(name: str) -> None:
    """An older worker refuses a field that it does not know, also one that asks for nothing."""
    request = GenerationRequest.model_validate(
        {"prompt": "Hi", **({} if name == "prompt" else {name: DEFAULTS[name]})}
    )

    assert request.to_wire() == {"prompt": "Hi"}


def test_no_field_is_sent_at_its_default_beside_others() -> None:
    fields = {**DEFAULTS, "prompt": None, "messages": [{"role": "user", "content": "Hi"}], "top_k": 5}

    assert GenerationRequest.model_validate(fields).to_wire() == {
        "messages": [{"role": "user", "content": "Hi"}],
        "top_k": 5,
    }


def test_every_field_may_be_left_out() -> None:
    """The contract grows by optional fields only, or an older producer could submit nothing."""
    assert not [name for name, field in GenerationRequest.model_fields.items() if field.is_required()]


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"prompt": "a", "reasoning": 1}, "reasoning"),
     ({"messages": [{"role": "user", "content": SECRET, "name": SECRET}]}, "messages.0.name")],
)  # fmt: skip
def test_a_worker_says_of_an_unknown_field_that_it_may_be_the_older_one(fields: Any, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GenerationRequest.parse(fields, as_worker=True)

    assert f"this worker does not know the field '{name}': it is older than the producer" in str(refused.value)
    assert f"(genqueue {VERSION}), or the name is misspelt" in str(refused.value)
    assert SECRET not in str(refused.value)
    with pytest.raises(InvalidRequest, match="there is no such"):
        GenerationRequest.parse(fields)


def test_a_name_of_a_field_that_goes_on_and_on_is_cut_off() -> None:
    with pytest.raises(InvalidRequest) as refused:
        GenerationRequest.parse({"prompt": "a", "x" * 10_000: 1})

    assert len(str(refused.value)) < 200


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
        ({"messages": [{"role": "user"}]}, "messages.0.content: it is missing"),
        ({"messages": [{"role": "user", "content": "a", "name": "x"}]}, "messages.0.name: there is no such field"),
        ({"prompt_token_ids": []}, "prompt_token_ids: "),
        ({"prompt_token_ids": [-1]}, "prompt_token_ids.0: "),
        ({"prompt_token_ids": [1.5]}, "prompt_token_ids.0: "),
        ({"prompt_token_ids": ["1"]}, "prompt_token_ids.0: "),
        ({"prompt": "a", "output_token_ids": []}, "output_token_ids: "),
        ({"prompt": "a", "output_token_ids": [-1]}, "output_token_ids.0: "),
        (
            {"prompt": "a", "output_token_ids": [1, 2], "max_new_tokens": 2},
            "max_new_tokens counts output_token_ids, too, of which there are 2: it must be above that",
        ),
        ({"prompt": "a", "temprature": 1}, "temprature: there is no such option: did you mean temperature?"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens: "),
        ({"prompt": "a", "max_new_tokens": "32"}, "max_new_tokens: "),
        ({"prompt": "a", "max_new_tokens": True}, "max_new_tokens: "),
        ({"prompt": "a", "max_new_tokens": 1, "min_new_tokens": 2}, "min_new_tokens must not be above"),
        ({"prompt": "a", "temperature": math.nan}, "temperature: "),
        ({"prompt": "a", "temperature": math.inf}, "temperature: "),
        ({"messages": CHAT, "chat_template_kwargs": {"a": math.nan}}, "chat_template_kwargs: Out of range float"),
        (
            {"prompt": "a", "response_format": {"type": "json_schema", "json_schema": SCHEMA}},
            "response_format: Out of range float",
        ),
        ({"prompt": "a", "temperature": -0.1}, "temperature: "),
        ({"prompt": "a", "top_p": 0}, "top_p: "),
        ({"prompt": "a", "top_p": 1.1}, "top_p: "),
        ({"prompt": "a", "top_k": -1}, "top_k: "),
        ({"prompt": "a", "min_p": 2}, "min_p: "),
        ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty: "),
        (
            {"prompt": "a", "repetition_penalty": 1e-40},
            "greater than or equal to 0.01",
        ),
        (
            {"prompt": "a", "repetition_penalty": 1e40},
            "less than or equal to 100",
        ),
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
