"""Options that say what form an answer has, and which tokens may be in it."""

import json
import re
from pathlib import Path
from typing import Any

import click

from ..contract import InvalidRequest
from .options import with_options

_TYPES = ("text", "json_object", "json_schema")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

structure_options = with_options(
    click.option(
        "--response-format",
        metavar="FILE|json_object",
        help="The answer is JSON: any object, or what the schema in FILE says. FILE may also hold OpenAI's "
        "response_format.",
    ),
    click.option("--regex", metavar="PATTERN", help="The whole answer matches it."),
    click.option("--choice", multiple=True, metavar="TEXT", help="The answer is one of these. Repeatable."),
    click.option(
        "--grammar", type=_FILE, metavar="FILE", help="The answer follows the grammar in FILE, as Lark's."
    ),
    click.option(
        "--logit-bias", multiple=True, metavar="ID=BIAS", help="Added to a token's logit: -100 to 100. Repeatable."
    ),
    click.option("--bad-word", "bad_words", multiple=True, help="A word that is not generated. Repeatable."),
    click.option("--allowed-token-ids", metavar="ID,ID,...", help="No other tokens are generated."),
)


def take_structure(options: dict[str, Any]) -> dict[str, Any]:
    """Fields of the request, out of the command's options.  Raises InvalidRequest."""
    given = options.pop("response_format")
    regex, choice, grammar = options.pop("regex"), options.pop("choice"), options.pop("grammar")
    grammars = [
        *([{"type": "regex", "regex": regex}] if regex is not None else []),
        *([{"type": "choice", "choice": list(choice)}] if choice else []),
        *([{"type": "lark", "lark": _text_of(grammar)}] if grammar else []),
    ]
    if len(grammars) + (given is not None) > 1:
        raise InvalidRequest(
            "give one of --response-format, --regex, --choice and --grammar: the answer has one form"
        )
    fields: dict[str, Any] = {"grammar": grammars[0]} if grammars else {}
    if given is not None:
        fields["response_format"] = (
            {"type": given} if given in ("text", "json_object") else _format_in(Path(given))
        )
    if bias := options.pop("logit_bias"):
        fields["logit_bias"] = dict(map(_bias, bias))
    return fields


def _bias(given: str) -> tuple[int, float]:
    try:
        token_id, _, bias = given.partition("=")
        return int(token_id), float(bias)
    except ValueError:
        raise InvalidRequest("--logit-bias has the form ID=BIAS, as in --logit-bias 42=-100") from None


def _format_in(path: Path) -> dict[str, Any]:
    """A schema gets the file's name, as far as OpenAI takes it."""
    try:
        is_file = path.is_file()
    except OSError:  # a whole schema is no name of a file
        is_file = False
    if not is_file:
        raise InvalidRequest(
            f"--response-format takes json_object, or a file with a JSON Schema, and {path!s:.80} is none"
        )
    try:
        value = json.loads(_text_of(path))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path} must hold an object: a JSON Schema, or OpenAI's response_format")
    if value.get("type") in _TYPES:
        return value
    name = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": value}}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from None
