"""Schemas whose numbers llguidance would take for others, and one of which would end the process."""

import math

import pytest

from producer.contract import GenerationRequest, InvalidRequest
from worker.engine.text.grammars import grammar_of, of_json, with_small_numbers


@pytest.mark.parametrize(
    "schema",
    [
        {"const": -(2**63)},
        {"const": 2**53 + 1},
        {"enum": ["a", [{"b": -1e19}]]},
        {"items": {"properties": {"a": {"const": {"maximum": 2**60}}}}},
        {"type": "integer", "minimum": 2**60},
        {"type": "integer", "maximum": -(2**60)},
        {"type": "integer", "multipleOf": 10**30},
    ],
    ids=str,
)
def test_a_number_that_would_be_another_one_is_refused(schema):
    with pytest.raises(InvalidRequest, match=r"it has the number .*make it a string"):
        of_json(schema)


SAME = {"properties": {"enum": {"const": 2**53}, "maximum": {"const": -5}, "b": {"minLength": 2}}}


@pytest.mark.parametrize(
    ("given", "kept_to"),
    [
        ({"minimum": -(2**63), "maximum": 2**63 - 1}, {"minimum": -(2**53), "maximum": 2**53}),
        ({"exclusiveMinimum": -math.inf}, {"exclusiveMinimum": -(2**53)}),
        ({"exclusiveMaximum": 10**30}, {"exclusiveMaximum": 2**53}),
        ({"maxLength": 2**63 - 1, "maxItems": 2**70}, {"maxLength": 10**9, "maxItems": 10**9}),
        (SAME, SAME),
    ],
    ids=str,
)
def test_limits_beyond_them_are_brought_to_where_numbers_can_be_told_apart(given, kept_to):
    before = str(given)
    assert with_small_numbers(given) == kept_to
    assert str(given) == before
    of_json(given)


@pytest.mark.parametrize(
    "number", ["-9223372036854775808", "-1e19", "9007199254740993", "1e9999999", "1e" + "9" * 30]
)
def test_a_schema_within_a_grammar_is_looked_at_as_well(number):
    def grammar(lark: str) -> str | None:
        return grammar_of(GenerationRequest.parse({"prompt": "x", "grammar": {"type": "lark", "lark": lark}}))

    with pytest.raises(InvalidRequest, match=f"it has the number {number}"):
        grammar(f'start: "n: " %json {{"const": {number}}}')
    assert grammar('json: %json {"minimum": 1e-99999999999999999999}')
    assert grammar(f'start: "{number}" | json\njson: %json {{"const": 5}}')
