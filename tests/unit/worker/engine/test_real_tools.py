"""Trained models that know tools: calls made, found as they come, held to their schema, and resumed. In float32.

    GENQUEUE_REAL_MODELS=folder python -m pytest tests/unit/worker/engine/test_real_tools.py

The folder holds model folders, of which each is tried whose chat template knows tools. What they answer is shown.
"""

import functools
import json
import os
from pathlib import Path

import jsonschema
import pytest
import torch

from producer.contract import GenerationRequest
from producer.contract.views.message_view import MessageView, parts_of
from tests.models import CPU
from worker.engine import Engine, EngineOptions

from .asking import answer, ids_of, start, text_of

FOLDER = os.environ.get("GENQUEUE_REAL_MODELS")
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
SCHEMAS = {"get_weather": WEATHER, "add": {**ADD, "additionalProperties": False}}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": said, "parameters": SCHEMAS[name]}}
    for name, said in (("get_weather", "The weather of a city"), ("add", "The sum of two numbers"))
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
QUESTIONS = {
    "What is the weather in Vienna, in celsius?": ("get_weather", "Vienna"),
    "What is 17 plus 25?": ("add", "17"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0),  # nobody knows how large they are
    pytest.mark.skipif(not FOLDER, reason="GENQUEUE_REAL_MODELS names no folder of trained models"),
]


def folders() -> list[Path]:
    return [path.parent for path in sorted(Path(FOLDER).glob("*/config.json"))] if FOLDER else [Path("none")]


@functools.cache
def engine_of(folder: Path) -> Engine:
    torch.set_num_threads(os.cpu_count() or 1)
    engine = Engine.load(folder, CPU, "float32", EngineOptions(path="static", context_length=1024))
    if engine.tokenizer.chat_template.tool_format is None:
        pytest.skip(f"the chat template of {folder.name} knows no tools")
    engine.warm_up()
    return engine


@pytest.fixture(params=folders(), ids=lambda folder: folder.name)
def engine(request) -> Engine:
    return engine_of(request.param)


def asking(question: str, **fields) -> GenerationRequest:
    chat = [{"role": "user", "content": question}]
    return GenerationRequest.parse({"messages": chat, "tools": TOOLS, "max_new_tokens": 80, **fields})


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("fields", [{}, {"temperature": 0.8}], ids=["greedy", "sampled"])
def test_a_call_is_streamed_and_keeps_to_its_schema_and_is_resumed(engine, question, fields, capsys):
    name, value = QUESTIONS[question]
    asked = asking(question, tool_choice={"type": "function", "function": {"name": name}}, **fields)
    view = MessageView("job", engine.answers.markup(asked, engine.encode(asked)))
    steps = answer(engine, asked, seed=3)
    deltas = [delta for step in steps if (delta := view.push(step.text))] + list(filter(None, [view.close()]))

    [call] = view.parts.tool_calls
    pieces = [piece for delta in deltas for piece in delta.tool_calls or ()]
    with capsys.disabled():
        print(f"\n{call.function.name} {call.function.arguments}, in {len(pieces)} deltas")
    assert len(pieces) > 2
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[name])
    assert value in call.function.arguments or fields
    for cut in (1, len(steps) // 2, len(steps) - 1):
        assert ids_of(answer(engine, asked, seed=3, resumed_ids=ids_of(steps[:cut]))) == ids_of(steps[cut:])


def test_one_of_the_tools_is_called_that_suits_the_question(engine, capsys):
    """Others may follow: a small model goes on, up to its last token."""
    for question, (name, value) in QUESTIONS.items():
        asked = asking(question, tool_choice="required", max_new_tokens=40)
        parts = parts_of("job", engine.answers.markup(asked, engine.encode(asked)), text_of(answer(engine, asked)))
        with capsys.disabled():
            print(f"\n{[(call.function.name, call.function.arguments) for call in parts.tool_calls]}")
        assert parts.tool_calls[0].function.name == name
        assert value in parts.tool_calls[0].function.arguments


def test_a_call_of_its_own_making_is_found(engine, capsys):
    """Begun for it, as small models leave out what marks a call, and write the object alone."""
    spelling = engine.tokenizer.chat_template.call_spelling
    begun = engine.tokenizer.encode(spelling.before, add_special_tokens=False).tolist()
    asked = asking("What is the weather in Vienna, in celsius?", output_token_ids=begun)
    generation = start(engine, asked, seed=3)
    text = generation.given_text + text_of(list(generation))

    parts = parts_of("job", engine.answers.markup(asked, engine.encode(asked)), text)
    with capsys.disabled():
        print(f"\n{text!r}")
    assert parts.tool_calls[0].function.name == "get_weather"
    assert json.loads(parts.tool_calls[0].function.arguments)["city"] == "Vienna"


def test_what_a_tool_has_said_is_answered(engine, capsys):
    named = asking("What is the weather in Vienna, in celsius?", tool_choice=NAMED)
    parts = parts_of("job", engine.answers.markup(named, engine.encode(named)), text_of(answer(engine, named)))
    [call] = parts.tool_calls
    chat = [
        *(message.model_dump() for message in named.messages or ()),
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 31, "sky": "clear"}'},
    ]
    text = text_of(
        answer(engine, GenerationRequest.parse({"messages": chat, "tools": TOOLS, "max_new_tokens": 40}))
    )
    with capsys.disabled():
        print(f"\n{call.function.arguments} -> {text!r}")
    assert "31" in text
