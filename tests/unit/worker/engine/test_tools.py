"""Calls that are asked for: made by any model, valid, found in the text, and resumed at every place."""

import json
from collections.abc import Callable

import jsonschema
import pytest

from producer.contract import GenerationRequest, Markup, ToolCall
from producer.contract.views.message_view import parts_of
from tests.models import engine_for, random_model
from worker.engine import Engine

from .asking import answer, ids_of, start, text_of
from .text.chat_templates import tokenizer_of

FAMILIES = ("Qwen2.5", "QwQ", "Llama 3.1", "Mistral v3", "Mistral v11")
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "days": {"type": "array", "items": {"enum": ["Mon", "Tue", 3]}, "minItems": 1, "maxItems": 4},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORECAST = {"type": "function", "function": {"name": "forecast", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}
NAMED = {"type": "function", "function": {"name": "forecast"}}
FIELDS = {"greedy": {}, "sampled": {"temperature": 1.2}, "no drafts": {"prompt_lookup": False}}


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory) -> Callable[[str], Engine]:
    engines: dict[str, Engine] = {}
    model = random_model(context_length=1024, eos_token_id=[2])

    def made(family: str) -> Engine:
        if family not in engines:
            engines[family] = engine_for(model, tokenizer_of(family, tmp_path_factory.mktemp("tokenizer")))
        return engines[family]

    return made


def asking(**fields) -> GenerationRequest:
    chat = [{"role": "user", "content": "Wien?"}]
    return GenerationRequest.parse({"messages": chat, "tools": [NOW, FORECAST], "max_new_tokens": 200, **fields})


def markup_of(engine: Engine, asked: GenerationRequest) -> Markup:
    found = engine.answers.markup(asked, engine.encode(asked))
    assert found
    return found


def calls_in(engine: Engine, asked: GenerationRequest, text: str) -> tuple[ToolCall, ...]:
    return parts_of("job", markup_of(engine, asked), text).tool_calls


def given(engine: Engine, text: str) -> dict:
    """What makes an answer begin so."""
    return {"output_token_ids": engine.tokenizer.encode(text, add_special_tokens=False).tolist()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_call_is_made_and_resumed_at_every_place(engine_of, family, fields):
    """A model of random weights thinks for ever: it is taken to have thought."""
    engine = engine_of(family)
    thought = given(engine, "hm\n</think>\n\n") if family == "QwQ" else {}
    asked = asking(tool_choice=NAMED, **fields, **thought)
    whole = answer(engine, asked, seed=7)
    text = text_of(whole)

    [call] = calls_in(engine, asked, ("hm\n</think>" if thought else "") + text)
    assert (whole[-1].finish_reason, call.function.name) == ("stop", "forecast")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    begun = thought.get("output_token_ids", [])
    for cut in range(1, len(whole), 3):
        resumed = answer(engine, asked, seed=7, resumed_ids=[*begun, *ids_of(whole[:cut])])
        assert ids_of(resumed) == ids_of(whole[cut:])
        assert text_of(whole[:cut]) + text_of(resumed) == text


@pytest.mark.parametrize("family", ["Qwen2.5", "Llama 3.1", "Mistral v11"])
def test_what_is_certain_takes_no_steps(engine_of, family, monkeypatch):
    """Of a named call, the name and all that stands around it."""
    engine = engine_of(family)
    asked = asking(tool_choice={"type": "function", "function": {"name": "now"}})
    monkeypatch.setattr(engine.path, "decode", None)

    [call] = calls_in(engine, asked, text_of(answer(engine, asked)))

    assert (call.function.name, call.function.arguments) == ("now", "{}")


@pytest.mark.parametrize("family", ["Qwen2.5", "Mistral v3"])
def test_the_schema_of_a_strict_function_holds_where_it_is_called(engine_of, family):
    engine = engine_of(family)
    strict = {**FORECAST, "function": {**FORECAST["function"], "strict": True}}
    begun = f"So:{engine.tokenizer.chat_template.call_spelling.before}forecast"
    asked = asking(tools=[strict], temperature=1.5, **given(engine, begun), max_new_tokens=300)
    for seed in range(3):
        generation = start(engine, asked, seed=seed)
        text = generation.given_text + text_of(list(generation))
        [call, *_] = calls_in(engine, asked, text)
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


def test_an_answer_that_is_held_to_a_format_has_no_other_parts(engine_of):
    """Also of a model whose prompt ends in the tag that begins the reasoning."""
    engine = engine_of("QwQ")
    asked = asking(tools=None, response_format={"type": "json_object"})
    assert engine.answers.markup(asked, engine.encode(asked)) is None
