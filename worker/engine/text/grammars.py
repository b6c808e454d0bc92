"""From what a request asks of its answer to a grammar of llguidance. Knows no tokens.

JSON is written on one line, as `json.dumps` writes it: `{"name": "Ada", "born": 1815}`. Where a model may put
white space as it likes, it may also go on with it for ever, and less of the text is certain beforehand.
"""

import json
from typing import Any

from llguidance import LLMatcher

from producer.contract import GenerationRequest
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
            return str(LLMatcher.grammar_from_lark(lark.lark))


def of_json(schema: dict[str, Any]) -> str:
    """The grammar of JSON that validates against a schema."""
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=WRITING))  # type: ignore[arg-type]
