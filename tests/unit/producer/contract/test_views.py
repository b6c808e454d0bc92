"""From an answer's text to what it says, thinks and calls, whatever the pieces in which it comes."""

import json
import re
import string
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings, strategies as st

from producer.contract import Delta, GenerationResult, Markup
from producer.contract.chat import FUNCTION_NAME, Message
from producer.contract.markup import Parts
from producer.contract.views.message_view import MessageView, call_id, parts_of
from producer.contract.views.syntaxes import MARKERS, READERS

FORMATS = sorted(READERS)
MARKUPS = [
    Markup(),
    Markup(reasoning="think"),
    Markup(reasoning="think", reasoning_open=True),
    *(Markup(tool_calls=name) for name in FORMATS),
    Markup(tool_calls="hermes", reasoning="think"),
    Markup(tool_calls="of a later version", reasoning="of a later version"),
]
FRAGMENTS = [
    *(marker for markers in MARKERS.values() for marker in markers),
    *("<think>", "</think>", "{", "}", "[", "]", '"', "\\", ",", ":", ";", "<", " ", "\n", "null", "1", "a", "😀"),
    *('{"name": "f", "arguments": {"a": [1, "}"]}}', '{"name": "g", "parameters": {}}', '"name": "h"'),
    *('"arguments": ', '"id": "1"', '{"type": "function", ', "f[ARGS]{", "Hello, you", "<tool", "[TOOL"),
]
# Half of a marker, a call that goes wrong late, text behind it: what random letters never make.
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(string.printable, max_size=4), max_size=14).map("".join)
markups = st.sampled_from(MARKUPS)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
calls = st.lists(
    st.tuples(
        st.from_regex(FUNCTION_NAME, fullmatch=True), st.dictionaries(st.text(max_size=5), json_values, max_size=3)
    ),
    min_size=1,
    max_size=3,
)


def cut(text: str, places: Iterable[int]) -> list[str]:
    edges = [0, *sorted(place for place in set(places) if 0 < place < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def follow(markup: Markup, pieces: Sequence[str]) -> tuple[Parts, list[Delta]]:
    """What a reader has at the end, and what it was given on the way."""
    view = MessageView("job", markup)
    deltas = [*map(view.push, pieces), view.close()]
    return view.parts, [delta for delta in deltas if delta is not None]


def joined(deltas: Sequence[Delta]) -> tuple[str, str, list[tuple[str | None, str | None, str]]]:
    """As a client of OpenAI's joins chunks."""
    called: list[tuple[str | None, str | None, str]] = []
    for delta in deltas:
        for piece in delta.tool_calls or ():
            if piece.index == len(called):
                assert piece.type == "function"
                called.append((piece.id, piece.function.name, piece.function.arguments))
            else:
                assert (piece.id, piece.type, piece.function.name) == (None, None, None)
                assert piece.index == len(called) - 1
                name = called[-1]
                called[-1] = (name[0], name[1], name[2] + piece.function.arguments)
    content, reasoning = (
        "".join(getattr(each, name) or "" for each in deltas) for name in ("content", "reasoning")
    )
    return content, reasoning, called


@given(markups, texts, st.lists(st.integers(0, 120), max_size=12))
@example(
    Markup(tool_calls="hermes"), '<tool_call>{"name": "f", "arguments": {"a": "\\"}"}}</tool_call>', [44, 46, 47]
)
def test_a_message_does_not_depend_on_the_pieces_it_comes_in(markup, text, places) -> None:
    whole = parts_of("job", markup, text)

    for pieces in (cut(text, places), list(text)):
        parts, deltas = follow(markup, pieces)
        assert parts == whole
        calls = [(call.id, call.function.name, call.function.arguments) for call in whole.tool_calls]
        assert joined(deltas) == (whole.content, whole.reasoning or "", calls)


@given(markups.filter(lambda markup: markup.reasoning != "think"), texts)
def test_what_looks_like_a_call_and_is_none_is_content_to_the_last_character(markup, text) -> None:
    parts = parts_of("job", markup, text)

    if not parts.tool_calls:
        assert parts.content == text
    if markup.tool_calls not in READERS:
        assert not parts.tool_calls


@given(markups, texts)
def test_a_message_can_be_sent_back(markup, text) -> None:
    parts = parts_of("job", markup, text)
    result = GenerationResult(
        job_id="job", status="finished", model="tiny", text=text, finish_reason="stop",
        content=parts.content, reasoning=parts.reasoning, tool_calls=parts.tool_calls or None,
    )  # fmt: skip

    assert Message.model_validate_json(result.message.model_dump_json()) == result.message
    assert result.message.content == parts.content


def written(name: str, arguments: str, of_arguments: str = "arguments") -> str:
    return f'{{"name": "{name}", "{of_arguments}": {arguments}}}'


WRITERS = {
    "hermes": lambda made: "\n".join(f"<tool_call>\n{written(*call)}\n</tool_call>" for call in made),
    "llama3_json": lambda made: "; ".join(written(*call, "parameters") for call in made),
    "mistral": lambda made: f"[TOOL_CALLS][{', '.join(written(*call) for call in made)}]",
}


@pytest.mark.parametrize("name", FORMATS)
@given(calls, st.booleans())
@settings(max_examples=20)
def test_calls_are_found_as_they_were_written(name, made, is_ascii) -> None:
    made = [(called, json.dumps(arguments, ensure_ascii=is_ascii)) for called, arguments in made]

    parts, deltas = follow(Markup(tool_calls=name), list(WRITERS[name](made)))

    assert [(call.function.name, call.function.arguments) for call in parts.tool_calls] == made
    assert (parts.content, parts.reasoning) == ("", None)
    assert [call.id for call in parts.tool_calls] == [call_id("job", index) for index in range(len(made))]
    assert deltas[0].tool_calls[0].function.name == made[0][0]


F = ("f", '{"a": 1}')


@pytest.mark.parametrize(
    ("name", "text", "content", "called"),
    [
        ("hermes", 'See:\n\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n', "See:", [F]),
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [F]),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [F]),
        ("hermes", '<tool_call>{"name": "f"}</tool_call> and so on', "and so on", [("f", "{}")]),
        ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', "", [("f", "{}")]),
        ("hermes", 'A\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\nB', "A\nB", [F]),
        # Brackets as small models set them.
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}}\n</tool_call>', "", [F]),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>', "", [F]),
        ("hermes", '<tool_call>\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}', "<tool_call>", [F]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": [1}}</tool_call>', "", [("f", '{"a": [1')]),
        # Cut off: arguments as far as they came; a call without a name is text.
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x', "", [("f", '{"a": "x')]),
        ("hermes", '<tool_call>{"name": "f', '<tool_call>{"name": "f', []),
        ("hermes", "x <tool_call", "x <tool_call", []),
        ("hermes", '<tool_call>{"name": "f g", "x": {}}', '<tool_call>{"name": "f g", "x": {}}', []),
        ("hermes", '{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "arguments": {"a": 1}}', []),
        ("llama3_json", '{"name": "f", "parameters": {"a": 1}}', "", [F]),
        ("llama3_json", '\n{"type": "function", "name": "f", "arguments": {"a": 1}}', "", [F]),
        ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', "", [F]),
        ("llama3_json", 'Well: <|python_tag|>{"name": "f", "parameters": {"a": 1}}', "Well:", [F]),
        ("llama3_json", '{"name": "Ada", "born": 1815}', '{"name": "Ada", "born": 1815}', []),
        ("llama3_json", '{"name": "Ada"} is it', '{"name": "Ada"} is it', []),
        ("llama3_json", 'As {"name": "f", "parameters": {}}', 'As {"name": "f", "parameters": {}}', []),
        ("llama3_json", "<|python_tag|>search(1)", "<|python_tag|>search(1)", []),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]', "", [F]),
        ("mistral", 'Ah [1]: [TOOL_CALLS]{"name": "f", "arguments": {"a": 1}}', "Ah [1]:", [F]),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]f{"a": 1}', "", [F, F]),
        ("mistral", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', "", [F]),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"x": 1}]', ', {"x": 1}]', [F]),
        ("mistral", "[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
    ],
)  # fmt: skip
def test_what_models_write(name, text, content, called) -> None:
    parts = parts_of("job", Markup(tool_calls=name), text)

    assert [(call.function.name, call.function.arguments) for call in parts.tool_calls] == called
    assert parts.content == content


@pytest.mark.parametrize(
    ("is_open", "text", "reasoning", "content"),
    [
        (False, "<think>\nWell, a < b.\n</think>\n\nYes.", "Well, a < b.", "Yes."),
        (False, "<think>\n\n</think>\n\nYes.\n", None, "Yes.\n"),
        (False, "Yes, <think>no</think>", None, "Yes, <think>no</think>"),
        (False, "  Yes", None, "  Yes"),
        (True, "Well.\n</think>\nYes.", "Well.", "Yes."),
        (True, "<think>\nWell.</think>Yes.", "Well.", "Yes."),
        (True, "Well, cut off\n", "Well, cut off", ""),
        (True, "Well </thin", "Well </thin", ""),
    ],
)
def test_reasoning_is_what_stands_between_its_tags(is_open, text, reasoning, content) -> None:
    parts = parts_of("job", Markup(reasoning="think", reasoning_open=is_open), text)

    assert parts == (content, reasoning, ())


def test_calls_come_behind_the_reasoning_and_none_in_it() -> None:
    call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    parts = parts_of("job", Markup(tool_calls="hermes", reasoning="think"), f"<think>{call}</think>\n{call}\n")

    assert (parts.reasoning, parts.content, len(parts.tool_calls)) == (call, "", 1)


def test_arguments_are_passed_on_as_they_come() -> None:
    view = MessageView("job", Markup(tool_calls="hermes"))

    given = [view.push(piece) for piece in ('<tool_call>{"name": "f", "arg', 'uments": {"a": "x', "y", '"}}')]

    assert [None if delta is None else joined([delta])[2] for delta in given[:2]] == [
        None,
        [(call_id("job", 0), "f", '{"a": "x')],
    ]
    assert [delta.tool_calls[0].function.arguments for delta in given[2:]] == ["y", '"}']


@pytest.mark.parametrize("arguments", ["[" * 5_000, '{"a": ' * 5_000, "9" * 5_000])
def test_arguments_that_go_on_and_on_are_passed_on(arguments) -> None:
    """As of a model that repeats itself up to max_new_tokens."""
    parts_of("job", Markup(tool_calls="hermes"), f'<tool_call>{{"arguments": {arguments}')
    named = parts_of("job", Markup(tool_calls="hermes"), f'<tool_call>{{"name": "f", "arguments": {arguments}')
    assert [call.function.arguments for call in named.tool_calls] == [arguments]
    result = GenerationResult(
        job_id="job", status="finished", model="tiny", text=arguments, finish_reason="length"
    )
    with pytest.raises(ValueError, match="was cut off by max_new_tokens"):
        _ = result.parsed


def test_an_id_is_of_the_job_and_the_place_and_in_a_form_that_every_template_takes() -> None:
    ids = [call_id(job_id, index) for job_id in ("job", "another") for index in range(50)]

    assert len(set(ids)) == 100
    assert all(re.fullmatch("[0-9A-Za-z]{9}", each) for each in ids)
    assert call_id("job", 0) == "KFMB39g5B"  # of a stream that was read before an upgrade, too
