"""From what a request asks of its answer to a grammar of llguidance. Knows no tokens.

JSON is written on one line, as `json.dumps` writes it: `{"name": "Ada", "born": 1815}`. Where a model may put
white space as it likes, it may also go on with it for ever, and less of the text is certain beforehand.
"""

import json
import re
from decimal import Decimal
from typing import Any

from llguidance import LLMatcher

from producer.contract import GenerationRequest, InvalidRequest
from producer.contract.structured import ChoiceGrammar, JsonSchemaFormat, RegexGrammar

ANY_OBJECT: dict[str, Any] = {"type": "object"}
WRITING: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # What is not understood is refused: else the answer would not be what was asked for.
    "lenient": False,
    "coerce_one_of": False,
}
"""How JSON is written, and what becomes of a schema that is not understood."""
_LARGEST = 2**53
"""llguidance has numbers as floats: a larger integer is another one there, and the constant -2**63 makes it call
itself until the process ends."""
_COUNTS = frozenset({"maxLength", "maxItems", "maxProperties"})
_LARGEST_COUNT = 10**9
"""More than any answer has. A regular expression counts to 2**32."""
_UPPER = _COUNTS | {"maximum", "exclusiveMaximum"}
_LOWER = frozenset({"minimum", "exclusiveMinimum"})
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


def grammar_of(request: GenerationRequest) -> str | None:
    """What the answer to this request has to keep to, for `Constraints.compile`; None for any text."""
    if request.response_format is not None:
        given = request.response_format
        return of_json(given.json_schema.schema_ if isinstance(given, JsonSchemaFormat) else ANY_OBJECT)
    match request.grammar:
        case None:
            return None
        case RegexGrammar(regex=regex):
            return str(LLMatcher.grammar_from_regex(regex))
        case ChoiceGrammar(choice=choice):
            texts = " | ".join(json.dumps(text) for text in choice)
            return str(LLMatcher.grammar_from_lark(f"start: {texts}"))
        case lark:
            _, _, schemas = lark.lark.partition("%json")
            for number in _NUMBER.finditer(schemas):
                if _is_too_large(number[0]):
                    raise _too_large(number[0])
            return str(LLMatcher.grammar_from_lark(lark.lark))


def of_json(schema: dict[str, Any]) -> str:
    """The grammar of JSON that validates against a schema.  Raises InvalidRequest as `with_small_numbers`."""
    return str(LLMatcher.grammar_from_json_schema(with_small_numbers(schema), overrides=WRITING))  # type: ignore[arg-type]


def with_small_numbers(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that asks for the same, as far as numbers can be told apart.

    Limits beyond those numbers are brought there. Raises InvalidRequest where something else is beyond them.
    """
    small: dict[str, Any] = json.loads(json.dumps(schema))
    waiting: list[tuple[Any, bool]] = [(small, False)]
    while waiting:
        part, is_data = waiting.pop()
        for place, value in part.items() if isinstance(part, dict) else enumerate(part):
            if isinstance(value, dict | list):
                waiting.append((value, is_data or place in ("enum", "const")))
            elif isinstance(value, int | float) and abs(value) > (largest := _largest(place, is_data=is_data)):
                if is_data or place not in (_UPPER if value > 0 else _LOWER):
                    raise _too_large(value)
                part[place] = largest if value > 0 else -largest
    return small


def _largest(place: object, *, is_data: bool) -> int:
    return _LARGEST_COUNT if place in _COUNTS and not is_data else _LARGEST


def _is_too_large(number: str) -> bool:
    """Exactly where it has to be: a Decimal has bounds of its own, and raises beyond them."""
    about = abs(float(number))
    return about > _LARGEST or (about == _LARGEST and abs(Decimal(number)) > _LARGEST)


def _too_large(number: object) -> InvalidRequest:
    return InvalidRequest(
        f"the answer's structure is refused: it has the number {number!s:.40}, and those beyond 2**53 cannot be "
        "told apart: make it a string"
    )
