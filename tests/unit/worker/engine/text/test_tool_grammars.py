"""Which answers a model may give that is to call a tool, in each form of a call."""

import json

import pytest

from producer.contract import GenerationRequest, InvalidRequest, Markup
from producer.contract.views.message_view import parts_of
from worker.engine import Tokenizer
from worker.engine.text.constraint import Constraints

from .chat_templates import TEMPLATES, TOKENS, tokenizer_of

FAMILIES = ("Qwen2.5", "Qwen3", "QwQ", "Llama 3.1", "Mistral v3", "Mistral v11")
VOCAB_SIZE, EOS = 800, 2
WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
NOW = {"name": "now"}
HERMES_JOIN = '}\n</tool_call>\n<tool_call>\n{"name": "'
NAMED = {"type": "function", "function": {"name": "now"}}


def asking(*functions: dict, **fields) -> GenerationRequest:
    tools = [{"type": "function", "function": function} for function in functions]
    return GenerationRequest.parse({"messages": [{"role": "user", "content": "Wien?"}], "tools": tools, **fields})


def markup_of(tokenizer: Tokenizer, request: GenerationRequest) -> Markup | None:
    prompt = tokenizer.chat_template.prompt(request.messages, request.tools)
    return tokenizer.markup(request, tokenizer.encode(prompt, add_special_tokens=False).tolist())


def may_say(tokenizer: Tokenizer, request: GenerationRequest, text: str) -> bool:
    """Whether that is a whole answer."""
    constraint = Constraints(tokenizer, VOCAB_SIZE).of(request, frozenset({EOS}), markup_of(tokenizer, request))
    if constraint is None:
        return True
    said = tokenizer.encode(text, add_special_tokens=False).tolist()
    return all(map(constraint.push, said)) and (constraint.is_over or constraint.push(EOS))


def call(tokenizer: Tokenizer, name: str, arguments: dict) -> str:
    spelling = tokenizer.chat_template.call_spelling
    return f"{spelling.before}{name}{spelling.between}{json.dumps(arguments)}{spelling.after}"


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def model(family, tmp_path) -> Tokenizer:
    return tokenizer_of(family, tmp_path)


@pytest.fixture
def thought(family) -> str:
    """What comes before an answer of that family."""
    return "hm\n</think>\n\n" if family == "QwQ" else ""


@pytest.mark.parametrize(
    ("family", "before", "between", "after", "join"),
    [
        ("Qwen2.5", '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", HERMES_JOIN),
        ("Llama 3.1", '{"name": "', '", "parameters": ', "}", None),
        ("Mistral v3", '[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]", '}, {"name": "'),
        ("Mistral v11", "[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]"),
    ],
    indirect=["family"],
)
def test_a_call_is_written_as_the_template_writes_it(model, before, between, after, join):
    assert model.chat_template.call_spelling == (before, between, after, join)


def test_arguments_may_be_written_without_spaces(tmp_path):
    compact = "| tojson(separators=(',', ':')) }}{% endfor"
    template = TEMPLATES["Mistral v11"].replace("| tojson }}{% endfor", compact)
    tokenizer_of("Mistral v11", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    assert Tokenizer(tmp_path).chat_template.call_spelling == ("[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]")


def test_a_template_that_goes_on_about_a_call_has_it_written_as_usual(tmp_path):
    tokenizer_of("Qwen2.5", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(f"{TEMPLATES['Qwen2.5']} {{{{ tools[0].function.name }}}}: done")
    template = Tokenizer(tmp_path).chat_template
    assert template.tool_format == "hermes"
    spelling = ('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", HERMES_JOIN)
    assert template.call_spelling == spelling


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_is_asked_for_is_all_that_may_be_said(model, thought, choice):
    asked = asking(WEATHER, NOW, tool_choice=choice)
    is_named = choice == NAMED
    for text, may in [
        (call(model, "weather", {"city": "Wien"}), not is_named),
        (call(model, "now", {}), True),
        (call(model, "now", {"a": 1}), False),
        (call(model, "weather", {"town": "Wien"}), False),
        (call(model, "other", {}), False),
        ("It is sunny.", False),
        ("It is: " + call(model, "now", {}), False),
        (call(model, "now", {}) + " there", False),
        ("", False),
    ]:
        assert may_say(model, asked, thought + text) is may, text


def calls(tokenizer: Tokenizer, *called: tuple[str, dict]) -> str:
    """Several, as the family writes them."""
    spelling = tokenizer.chat_template.call_spelling
    written = [f"{name}{spelling.between}{json.dumps(arguments)}" for name, arguments in called]
    return spelling.before + str(spelling.join).join(written) + spelling.after


@pytest.mark.parametrize("family", ["Qwen2.5", "Qwen3", "Mistral v3", "Mistral v11"], indirect=True)
@pytest.mark.parametrize(("choice", "many"), [("required", True), (NAMED, False)])
def test_several_calls_may_follow_each_other_where_none_is_named(model, choice, many):
    asked = asking(WEATHER, NOW, tool_choice=choice)
    assert may_say(model, asked, calls(model, *[("now", {})] * 3)) is many
    assert may_say(model, asked, calls(model, ("now", {}), ("weather", {"city": "Wien"}))) is many
    assert not may_say(model, asked, calls(model, ("now", {}), ("weather", {"town": "Wien"})))
    [first, second] = parts_of("job", markup_of(model, asked), calls(model, ("now", {}), ("now", {}))).tool_calls
    assert (first.function.name, second.function.name) == ("now", "now")


@pytest.mark.parametrize("family", ["Qwen2.5", "Mistral v3", "Mistral v11"], indirect=True)
def test_strict_functions_may_be_called_several_at_once(model):
    asked = asking({**WEATHER, "strict": True})
    for cities, may in (({"city": "Wien"}, True), ({"town": "Wien"}, False)):
        assert may_say(model, asked, calls(model, ("weather", {"city": "Graz"}), ("weather", cities))) is may


@pytest.mark.parametrize("family", ["Llama 3.1"], indirect=True)
def test_a_model_whose_template_has_one_call_makes_one(model):
    asked, now = asking(NOW, tool_choice="required"), call(model, "now", {})
    assert may_say(model, asked, now)
    assert not may_say(model, asked, f"{now}; {now}")


@pytest.mark.parametrize(("family", "may"), [("Qwen2.5", False), ("Qwen3", True)], indirect=["family"])
@pytest.mark.parametrize("choice", ["required", None])
def test_a_model_that_thinks_may_do_so_first(model, may, choice):
    asked = asking({**NOW, "strict": True}, **({"tool_choice": choice} if choice else {}))
    answer = call(model, "now", {})
    assert may_say(model, asked, f"<think>\nhm\n</think>\n\n{answer}") is (may or choice is None)
    assert may_say(model, asked, answer)


def test_strict_functions_hold_their_calls_and_leave_the_text_free(model, thought):
    asked = asking({**WEATHER, "strict": True}, NOW)
    weather = call(model, "weather", {"city": "Wien"})
    for text, may in [
        (weather, True),
        (call(model, "weather", {"town": "Wien"}), False),
        (call(model, "now", {"a": [1, {}]}), True),
        ("It is sunny.\n\nAnd {warm}.", True),
        ("", True),
    ]:
        assert may_say(model, asked, thought + text) is may, text
    if model.chat_template.tool_format != "llama3_json":
        assert may_say(model, asked, f"{thought}I look: {weather}\n{weather} So.")


@pytest.mark.parametrize("family", ["Qwen2.5", "QwQ"], indirect=True)
def test_tags_need_not_be_tokens(family, tmp_path, thought, monkeypatch):
    monkeypatch.setitem(TOKENS, family, {})
    tokenizer = tokenizer_of(family, tmp_path)
    asked = asking({**WEATHER, "strict": True})
    for text, may in [
        (f"I look: {call(tokenizer, 'weather', {'city': 'Wien'})} So.", True),
        (f"I look: {call(tokenizer, 'weather', {'town': 'Wien'})} So.", False),
        ("I know.", True),
    ]:
        assert may_say(tokenizer, asked, thought + text) is may, text


@pytest.mark.parametrize("family", ["Qwen2.5"], indirect=True)
def test_nothing_holds_a_model_that_may_call_as_it_likes(model):
    constraints = Constraints(model, VOCAB_SIZE)
    assert constraints.of(asking(WEATHER), frozenset({EOS}), Markup(tool_calls="hermes")) is None


@pytest.mark.parametrize("family", ["Qwen2.5"], indirect=True)
def test_a_schema_that_cannot_be_kept_to_is_refused_by_the_name_of_what_is_not_understood(model):
    odd = {
        "name": "odd",
        "parameters": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
    }
    constraints = Constraints(model, VOCAB_SIZE)
    lenient = {"name": "lenient", "parameters": {**odd["parameters"], "x-guidance": {"lenient": True}}}
    for function in (odd, lenient):
        with pytest.raises(InvalidRequest, match=r"the answer's structure is refused: .*uniqueItems"):
            constraints.prepare(asking(function, tool_choice="required"), Markup(tool_calls="hermes"))
    constraints.prepare(asking(odd), Markup(tool_calls="hermes"))
    with pytest.raises(InvalidRequest, match="it has the number"):
        constraints.prepare(
            asking({"name": "big", "parameters": {"const": 2**60}}, tool_choice="required"),
            Markup(tool_calls="hermes"),
        )


@pytest.mark.parametrize("family", ["Qwen2.5"], indirect=True)
@pytest.mark.parametrize(
    "parameters", [{}, {"anyOf": [{"type": "integer"}, {"type": "object"}]}, {"type": ["object"]}]
)
def test_arguments_are_an_object_also_where_their_schema_does_not_say_so(model, parameters):
    asked = asking({"name": "f", "parameters": parameters}, tool_choice="required")
    assert may_say(model, asked, call(model, "f", {"a": 1}))
    assert not any(may_say(model, asked, call(model, "f", other)) for other in (False, 3, "x", [], None))
    odd = asking({"name": "f", "parameters": {"type": "string"}}, tool_choice="required")
    with pytest.raises(InvalidRequest, match="the parameters of f are of the type string"):
        may_say(model, odd, "")
