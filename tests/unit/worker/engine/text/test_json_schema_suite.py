"""Schemas of the JSON Schema Test Suite: every answer validates, or the schema is refused by its keyword."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from producer.contract import GenerationRequest, InvalidRequest
from tests.models import engine_for, random_model
from worker.engine import Engine, Tokenizer

SUITE = json.loads((Path(__file__).parents[5] / "tests/fixtures/json-schema-test-suite.json").read_text())
EOS = 2
ANSWERS = 2


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    return engine_for(random_model(context_length=512, eos_token_id=[EOS]), tokenizer, "static")


def asking(schema: dict[str, Any], **fields: Any) -> GenerationRequest:
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return GenerationRequest.parse({"prompt": "Hi", "response_format": named, **fields})


def test_there_are_forty_of_them() -> None:
    assert len(SUITE["kept_to"]) >= 40
    assert SUITE["license"].startswith("Copyright (c) 2012 Julian Berman")


@pytest.mark.parametrize("name", SUITE["kept_to"])
def test_every_answer_validates(engine: Engine, name: str) -> None:
    schema = SUITE["kept_to"][name]
    # What closes a JSON is made likelier: a model with random weights would go on for ever.
    bias = {engine.tokenizer.backend.token_to_id(token): 5.0 for token in ('"', "}", "]")} | {EOS: 12.0}
    asked = asking(schema, temperature=1.5, max_new_tokens=200, logit_bias=bias)
    prompt_ids = engine.encode(asked)
    whole = 0
    for seed in range(ANSWERS):
        steps = list(engine.start(asked, prompt_ids, seed=seed))
        if steps[-1].finish_reason == "stop":
            Draft4Validator(schema).validate(json.loads("".join(step.text for step in steps)))
            whole += 1
    assert whole


@pytest.mark.parametrize("name", SUITE["refused"])
def test_what_cannot_be_kept_to_is_refused_by_its_keyword(engine: Engine, name: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        engine.encode(asking(SUITE["refused"][name]["schema"]))
    assert SUITE["refused"][name]["keyword"] in str(error.value)
