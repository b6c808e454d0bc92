"""Answers that are held to a structure: valid, the same however they came about, and resumed at every place."""

import json
import re
from collections.abc import Callable

import jsonschema
import pytest

from producer.contract import EngineError, GenerationRequest, InvalidRequest
from tests.models import engine_for, random_model
from worker.engine import Engine, Tokenizer

from .asking import answer, ids_of, start, text_of

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "born": {"type": "integer", "minimum": 1800, "maximum": 2020},
        "kind": {"enum": ["poet", "polymath"]},
        "likes": {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 9},
    },
    "required": ["name", "born", "kind", "likes"],
    "additionalProperties": False,
}
AS_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}}
PATTERN = r"[a-f]{2,9}-[0-9]+\.(one|two)"
CHOICES = ("a queue", "a queue of jobs", "something else")
STRUCTURES = {
    "schema": AS_SCHEMA,
    "regex": {"grammar": {"type": "regex", "regex": PATTERN}},
    "choice": {"grammar": {"type": "choice", "choice": list(CHOICES)}},
    "lark": {"grammar": {"type": "lark", "lark": 'start: "<" item+ ">"\nitem: /[0-9]{4}/ ("," | ";")'}},
}
FIELDS = {
    "greedy": {},
    "sampled": {"temperature": 1.1},
    "cut": {"temperature": 1.3, "top_k": 40, "top_p": 0.95, "min_p": 0.001},
    "penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "no drafts": {"prompt_lookup": False},
    "logprobs": {"logprobs": 2},
}
EOS = 2
KINDS = ("dynamic", "static with reuse", "static as on a GPU", "static in chunks, deep lookahead")


@pytest.fixture(scope="module")
def engine_of(tokenizer: Tokenizer) -> Callable[[str], Engine]:
    engines: dict[str, Engine] = {}
    model = random_model(context_length=256, eos_token_id=[EOS])

    def made(kind: str = "static with reuse") -> Engine:
        if kind not in engines:
            engines[kind] = engine_for(model, tokenizer, kind)
        return engines[kind]

    return made


def asking(**fields) -> GenerationRequest:
    return GenerationRequest.parse({"prompt": "true true true true, and 你好", "max_new_tokens": 64, **fields})


def fits(structure: str, text: str) -> bool:
    if structure == "schema":
        jsonschema.validate(json.loads(text), SCHEMA)
        return True
    if structure == "choice":
        return text in CHOICES
    return bool(re.fullmatch(PATTERN if structure == "regex" else r"<(\d{4}[,;])+>", text))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_it_is_resumed_at_every_place(engine_of, kind, fields, structure):
    """Of each three places one, another for each way to run it: of a long answer, each takes its time."""
    asked = asking(**STRUCTURES[structure], **fields)
    whole = answer(engine_of("dynamic"), asked, seed=7)
    if whole[-1].finish_reason == "stop":
        assert fits(structure, text_of(whole))
    engine = engine_of(kind)
    first = (KINDS.index(kind) + [*FIELDS.values()].index(fields)) % 3
    for cut in range(first, len(whole) + 1, 3):
        resumed = start(engine, asked, seed=7, resumed_ids=ids_of(whole[:cut]))
        rest = list(resumed)
        assert (ids_of(rest), text_of(rest)) == (ids_of(whole[cut:]), text_of(whole[cut:]))
        assert resumed.finish_reason == whole[-1].finish_reason


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("structure", ["schema", "regex", "choice"])
def test_whatever_is_drawn_fits(engine_of, structure, seed):
    steps = answer(engine_of(), asking(**STRUCTURES[structure], temperature=2.0, max_new_tokens=200), seed=seed)
    assert steps[-1].finish_reason == "stop"
    assert fits(structure, text_of(steps))


def test_any_json_object(engine_of):
    steps = answer(engine_of(), asking(response_format={"type": "json_object"}, temperature=1.0), seed=3)
    whole = [text_of(steps)] if steps[-1].finish_reason == "stop" else []
    assert all(isinstance(json.loads(text), dict) for text in whole)
    assert text_of(steps).startswith("{")


class TestForcedTokens:
    """Where the grammar leaves one text, the model is not asked."""

    @pytest.fixture
    def reads(self, engine_of, monkeypatch) -> list[int]:
        engine, read = engine_of("static"), []

        def noting(method):
            return lambda ids, **options: read.append(ids.shape[1]) or method(ids, **options)

        monkeypatch.setattr(engine.path, "read", noting(engine.path.read))
        monkeypatch.setattr(engine.path, "decode", noting(engine.path.decode))
        return read

    def test_they_are_read_in_one_go(self, engine_of, reads):
        asked = asking(**AS_SCHEMA)
        steps = answer(engine_of("static"), asked)
        prompt = len(engine_of("static").encode(asked))
        assert prompt + len(steps) - 4 < sum(reads) < prompt + len(steps), "each but the last ones, and none twice"
        assert len(reads) < len(steps) / 2
        assert max(reads[1:]) > 5

    def test_one_answer_alone_needs_no_model(self, engine_of, reads):
        steps = answer(
            engine_of("static"), asking(grammar={"type": "choice", "choice": ["The only one there is."]})
        )
        assert text_of(steps) == "The only one there is."
        assert (steps[-1].finish_reason, reads) == ("stop", [])

    def test_they_end_at_max_new_tokens(self, engine_of, reads):
        asked = asking(grammar={"type": "choice", "choice": ["The only one there is."]}, max_new_tokens=3)
        steps = answer(engine_of("static"), asked)
        assert (len(steps), steps[-1].finish_reason, reads) == (3, "length", [])

    def test_with_logprobs_each_is_read_and_the_text_is_the_same(self, engine_of, reads):
        plain = answer(engine_of("static"), asking(**AS_SCHEMA))
        reads.clear()
        told = answer(engine_of("static"), asking(**AS_SCHEMA, logprobs=0))
        assert ids_of(told) == ids_of(plain)
        assert set(reads[1:]) == {1}
        assert all(step.logprob is not None for step in told)


class TestEnds:
    def test_the_end_of_sequence_comes_where_the_answer_may_end_and_nowhere_else(self, engine_of):
        asked = asking(grammar={"type": "regex", "regex": "[a-z]{4}|[a-z]{8}|[a-z]{40}"}, temperature=1.0)
        asked = asked.model_copy(update={"logit_bias": {EOS: 6.0}})
        ended = [answer(engine_of(), asked, seed=seed) for seed in range(20)]
        by_eos = [steps for steps in ended if steps[-1].token_id == EOS]
        assert {len(text_of(steps)) for steps in by_eos} <= {4, 8}
        assert by_eos
        assert all(steps[-1].finish_reason == "stop" for steps in ended)

    def test_a_model_without_an_end_goes_on_as_long_as_it_may(self, tokenizer):
        engine = engine_for(random_model(), tokenizer)
        assert answer(engine, asking(grammar={"type": "regex", "regex": "a+"}, max_new_tokens=9))[
            -1
        ].finish_reason == ("length")
        assert answer(engine, asking(**AS_SCHEMA, max_new_tokens=80))[-1].finish_reason == "stop"

    def test_min_new_tokens_holds_the_end_back_where_something_else_may_come(self, engine_of):
        grammar = {"type": "regex", "regex": "[0-9]*"}
        short = answer(engine_of(), asking(grammar=grammar, logit_bias={EOS: 100}))
        long = answer(engine_of(), asking(grammar=grammar, logit_bias={EOS: 100}, min_new_tokens=5))
        assert (ids_of(short), len(long), long[-1].token_id) == ([EOS], 6, EOS)
        only = answer(engine_of(), asking(grammar={"type": "choice", "choice": ["a"]}, min_new_tokens=5))
        assert (text_of(only), only[-1].finish_reason) == ("a", "stop")

    def test_a_stop_string_ends_it_before(self, engine_of):
        whole = text_of(answer(engine_of(), asking(**AS_SCHEMA)))
        cut = answer(engine_of(), asking(**AS_SCHEMA, stop=['", "born']))
        assert text_of(cut) == whole.partition('", "born')[0]
        assert cut[-1].stop == '", "born'

    def test_special_tokens_are_shown_if_they_are_to_be(self, engine_of):
        asked = asking(grammar={"type": "regex", "regex": "b*"}, logit_bias={EOS: 100}, skip_special_tokens=False)
        assert text_of(answer(engine_of(), asked)) == "<|im_end|>"


class TestGivenOutput:
    def test_it_is_gone_on_with(self, engine_of):
        asked = asking(**AS_SCHEMA, temperature=0.8)
        whole = answer(engine_of(), asked, seed=4)
        for cut in range(1, len(whole) - 1, 3):
            generation = start(
                engine_of(), asked.model_copy(update={"output_token_ids": ids_of(whole)[:cut]}), seed=4
            )
            rest = list(generation)
            assert ids_of(rest) == ids_of(whole)[cut:]
            assert generation.given_text + text_of(rest) == text_of(whole)

    def test_what_breaks_the_structure_is_refused(self, engine_of, tokenizer):
        given = tokenizer.encode('{"name": "a", "age"').tolist()
        with pytest.raises(InvalidRequest, match="output_token_ids do not keep to what the request asks"):
            start(engine_of(), asking(**AS_SCHEMA, output_token_ids=given))

    def test_a_whole_answer_is_refused(self, engine_of):
        only = {"grammar": {"type": "choice", "choice": ["a queue of jobs"]}}
        whole = ids_of(answer(engine_of(), asking(**only)))
        with pytest.raises(
            InvalidRequest, match="the structure that it is held to ends the output with its token"
        ):
            start(engine_of(), asking(**only, output_token_ids=whole))

    def test_tokens_of_an_earlier_attempt_that_break_it_are_no_fault_of_the_request(self, engine_of, tokenizer):
        with pytest.raises(EngineError, match="or not what the request asks for"):
            start(engine_of(), asking(**AS_SCHEMA), resumed_ids=tokenizer.encode("Hello").tolist())


class TestIsRefused:
    @pytest.mark.parametrize(
        ("structure", "said"),
        [
            ({"type": "array", "uniqueItems": True}, r'not supported: \["uniqueItems"\]'),
            ({"properties": {"a": {"not": {"type": "null"}}}}, r'not supported: \["not"\]'),
            ({"type": "string", "format": "colour"}, "Unknown format: colour"),
            ({"type": "objekt"}, "Invalid type: objekt"),
            ({"$ref": "http://example.com/x"}, r"\$ref: Resource .* is not in the schema"),
            ({"$ref": "#/$defs/a"}, r"\$ref: '/\$defs/a' is not in the schema"),
            ({"enum": []}, "Unsatisfiable schema"),
            ({"$ref": "#"}, "no text fits it"),
        ],
        ids=str,
    )
    def test_a_schema_by_its_keyword(self, engine_of, structure, said):
        schema = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": structure}}}
        with pytest.raises(InvalidRequest, match=said) as error:
            engine_of().encode(asking(**schema))
        assert error.value.code == "invalid_request"

    @pytest.mark.parametrize(
        ("grammar", "said"),
        [
            ({"type": "regex", "regex": "("}, "unclosed group"),
            ({"type": "regex", "regex": "(?=a)b"}, "look-around"),
            ({"type": "regex", "regex": "a{0}"}, "no text but an empty one"),
            ({"type": "lark", "lark": "start: nowhere"}, 'unknown name: "nowhere"'),
            ({"type": "lark", "lark": 'other: "a"'}, "no start rule"),
        ],
        ids=str,
    )
    def test_a_grammar(self, engine_of, grammar, said):
        with pytest.raises(InvalidRequest, match=said):
            engine_of().encode(asking(grammar=grammar))

    def test_where_no_token_is_left(self, engine_of):
        with pytest.raises(InvalidRequest, match="no token is left"):
            answer(engine_of(), asking(allowed_token_ids=[EOS], min_new_tokens=2))


def test_drafts_are_taken_within_the_structure(engine_of, monkeypatch):
    """A text that goes round in circles is drafted from itself, as far as the grammar goes along."""
    engine = engine_of()
    accepted = []
    asked = asking(grammar={"type": "regex", "regex": "((yes|no) ){20,}"}, max_new_tokens=60)
    read = engine.read_draft
    monkeypatch.setattr(engine, "read_draft", lambda ids: accepted.append(ids.shape[1]) or read(ids))
    drafted = answer(engine, asked)
    assert accepted
    assert ids_of(drafted) == ids_of(answer(engine, asked.model_copy(update={"prompt_lookup": False})))
