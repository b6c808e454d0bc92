"""What an answer must look like: JSON, a JSON Schema, a regular expression, one of some texts, a grammar.

`response_format` is OpenAI's. Here are form and sizes; whether a schema or a grammar makes sense is for whoever
reads it: `producer.schemas` where it is submitted, the worker's engine in any case.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictStr, field_validator

from .strict import Frozen

MAX_GRAMMAR_CHARS = 65_536
"""Of a schema as JSON, or of a grammar. What compiles it needs time and stack by its length."""
MAX_CHOICES = 1_000


class TextFormat(Frozen):
    """Any text: as if no response_format were given."""

    type: Literal["text"]


class JsonObjectFormat(Frozen):
    """A JSON object, whatever is in it."""

    type: Literal["json_object"]


class JsonSchema(Frozen):
    """A schema with a name, as OpenAI has it."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[StrictStr, Field(max_length=4_096)] | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    """The model's answer validates against it."""
    strict: StrictBool | None = None
    """Taken because OpenAI's clients send it. The answer keeps to the schema in any case."""

    @field_validator("schema_")
    @classmethod
    def _of_a_size(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if (size := len(json.dumps(schema, ensure_ascii=False))) > MAX_GRAMMAR_CHARS:
            raise ValueError(f"a schema may have {MAX_GRAMMAR_CHARS} characters as JSON, and this one has {size}")
        return schema


class JsonSchemaFormat(Frozen):
    """JSON that validates against a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class RegexGrammar(Frozen):
    """The whole answer matches a regular expression, in the syntax of Rust's `regex`: no look-around."""

    type: Literal["regex"]
    regex: Annotated[StrictStr, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]


class ChoiceGrammar(Frozen):
    """The answer is one of these."""

    type: Literal["choice"]
    choice: Annotated[
        tuple[Annotated[StrictStr, Field(min_length=1)], ...], Field(min_length=1, max_length=MAX_CHOICES)
    ]

    @field_validator("choice")
    @classmethod
    def _of_a_size(cls, choice: tuple[str, ...]) -> tuple[str, ...]:
        if (size := sum(map(len, choice))) > MAX_GRAMMAR_CHARS:
            raise ValueError(f"all together may have {MAX_GRAMMAR_CHARS} characters, and these have {size}")
        return choice


class LarkGrammar(Frozen):
    """The answer follows a context-free grammar in Lark's syntax, as llguidance has it, from the rule `start`."""

    type: Literal["lark"]
    lark: Annotated[StrictStr, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]


Grammar = Annotated[RegexGrammar | ChoiceGrammar | LarkGrammar, Field(discriminator="type")]
