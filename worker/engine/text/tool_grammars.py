"""From the tools of a request to a grammar: the call that is asked for, and its arguments by their schema.

A call is written as the chat template writes it, which is how the model was taught to; what marks it is a token of
its own where the tokenizer has one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from producer.contract import GenerationRequest, InvalidRequest, Markup
from producer.contract.chat import NamedToolChoice, Tool
from producer.contract.views.syntaxes import END_OF_THINK, MARKERS, THINK

from .chat_template import CallSpelling
from .grammars import WRITING, with_small_numbers

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_ARGUMENTS = {"type": "object"}


def tool_grammar(
    request: GenerationRequest,
    spelling: CallSpelling,
    markup: Markup,
    token_id: Callable[[str], int | None],
) -> str | None:
    """What the answer has to keep to, in Lark; None where it may call as it likes.

    markup: of the answer.  token_id: of an added token, by its text.
    """
    tools, must_call = _callable(request), request.must_call
    if not must_call and not any(tool.function.strict for tool in tools):
        return None
    tags = (THINK, END_OF_THINK, *MARKERS[str(markup.tool_calls)])
    grammar = _Grammar(spelling, {tag: found for tag in tags if (found := token_id(tag)) is not None})
    grammar.calls(tools, must_call=must_call)
    grammar.thinking(markup)
    grammar.start(markup, must_call=must_call, many=not isinstance(request.tool_choice, NamedToolChoice))
    return grammar.text


def _callable(request: GenerationRequest) -> Sequence[Tool]:
    """The tools that may be called."""
    tools = (request.tools or ()) if request.calls_tools else ()
    if isinstance(choice := request.tool_choice, NamedToolChoice):
        return [tool for tool in tools if tool.function.name == choice.function.name]
    return tools


class _Grammar:
    """Rules, as they come together."""

    def __init__(self, spelling: CallSpelling, token_ids: Mapping[str, int]) -> None:
        self._spelling = spelling
        self._token_ids = token_ids
        self._rules = ["TEXT: /(.|\\n)+/", "SPACE: /[ \\t\\r\\n]+/"]

    @property
    def text(self) -> str:
        """The grammar."""
        return "\n".join(self._rules)

    def calls(self, tools: Sequence[Tool], *, must_call: bool) -> None:
        """`function`: the name of one of the tools, with its arguments."""
        self._rules.append("function: " + " | ".join(f"f{place}" for place in range(len(tools))))
        for place, tool in enumerate(tools):
            name = self._spelled(tool.function.name + self._spelling.between)
            arguments = with_small_numbers(_schema(tool, must_call=must_call))
            schema = json.dumps({**arguments, "x-guidance": WRITING})
            self._rules.append(f"f{place}: {name} a{place}\na{place}: %json {schema}")

    def thinking(self, markup: Markup) -> None:
        """`think`: what comes before the answer, if the model thinks."""
        if markup.reasoning is None:
            self._rules.append('think: ""')
            return
        begin = "" if markup.reasoning_open else self._spelled(THINK)
        thought = f"{begin} {self._up_to(END_OF_THINK)} SPACE?"
        self._rules.append(f"think: {thought}" if markup.reasoning_open else f"think: ({thought})?")

    def start(self, markup: Markup, *, must_call: bool, many: bool) -> None:
        """`start`: all of the answer.  many: it may call more than once, as far as the model knows how to."""
        marker = MARKERS[str(markup.tool_calls)][0]
        join = self._spelling.join if many else None
        if not must_call and join is not None and marker in join:
            join = None  # the marker begins another call in any case
        functions = "function" if join is None else f"function ({self._spelled(join)} function)*"
        rest = f"{functions} {self._spelled(self._spelling.after)}"
        call = f"{self._spelled(self._spelling.before)} {rest}"
        if must_call:
            self._rules.append(f"start: think {call}")
        elif markup.tool_calls == "llama3_json":
            self._rules.append(f"start: think (PLAIN | {call})?\nPLAIN: /[^{{ \\t\\r\\n](.|\\n)*/")
        else:
            # A text is a call from its marker on: up to there it may be anything.
            _, _, behind = self._spelling.before.partition(marker)
            self._rules.append(f"start: think ({self._up_to(marker)} {self._spelled(behind)} {rest})* TEXT?")

    def _up_to(self, tag: str) -> str:
        """Any text without that tag, and the tag."""
        if tag in self._token_ids:
            return f"TEXT? {self._spelled(tag)}"
        name = f"up_to_{len(self._rules)}"
        self._rules.append(f"{name}[lazy]: /(.|\\n)*{re.escape(tag)}/".replace("</", "<\\/"))
        return name

    def _spelled(self, text: str) -> str:
        return " ".join(self._pieces(text)) or '""'

    def _pieces(self, text: str) -> Iterator[str]:
        tags = "|".join(map(re.escape, self._token_ids)) or "(?!)"
        for piece in filter(None, re.split(f"({tags})", text)):
            known = self._token_ids.get(piece)
            yield json.dumps(piece) if known is None else f"<[{known}]>"


def _schema(tool: Tool, *, must_call: bool) -> dict[str, Any]:
    if not must_call and not tool.function.strict:
        return _ANY_ARGUMENTS
    parameters = tool.function.parameters
    if parameters is None:
        return _NO_ARGUMENTS
    kinds = parameters.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        raise InvalidRequest(
            f"the parameters of {tool.function.name} are of the type {kinds!s:.40}: the arguments of a call are "
            'an object, and their schema has "type": "object"'
        )
    return {**parameters, "type": "object"}  # a schema that does not say so would let through any value
