"""How models mark reasoning and calls in their text. Sources: their chat templates; vLLM's parsers of these names.

What looks like a call at first and is none is content, to the last character.
"""

import re
from collections.abc import Callable, Mapping

from ..chat import FUNCTION_NAME
from .draft import Draft
from .json_calls import read_call, read_value
from .source import Source, Steps

THINK, END_OF_THINK = "<think>", "</think>"
TOOL_CALL, END_OF_TOOL_CALL = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
TOOL_CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"

_ANY = re.compile(r".+", re.DOTALL)
_UP_TO_ANGLE = re.compile("[^<]+")
_UP_TO_BRACKET = re.compile(r"[^\[]+")
_OF_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_CLOSING_TOO_MANY = re.compile(r"[\s}\]]+", re.ASCII)
_BETWEEN_CALLS = re.compile(r"[\s;,]+", re.ASCII)


def read_reasoning(source: Source, draft: Draft, *, is_open: bool) -> Steps[None]:
    """What stands between the tags, at the beginning.  is_open: it has begun before the text.

    A model that was cut off within has said nothing yet.
    """
    source.record()
    yield from source.skip_space()
    if (yield from source.begins(THINK)):
        source.skip(len(THINK))
    elif not is_open:
        draft.content(source.recorded)
        return
    draft.mark()
    while (yield from source.more()):
        if text := source.take(_UP_TO_ANGLE):
            draft.reasoning(text)
        elif (yield from source.begins(END_OF_THINK)):
            source.skip(len(END_OF_THINK))
            return
        else:
            draft.reasoning(source.skip(1))


def read_content(source: Source, draft: Draft) -> Steps[None]:
    """Text without calls."""
    while (yield from source.more()):
        draft.content(source.take(_ANY))


def read_hermes(source: Source, draft: Draft) -> Steps[None]:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as of Qwen and Hermes."""
    while (yield from _content_up_to(source, draft, TOOL_CALL, _UP_TO_ANGLE)):
        yield from source.skip_space()
        if (yield from _call_comes(source, draft)):
            # Small models close a bracket too many, or forget one.
            while (yield from source.more()) and source.take(_CLOSING_TOO_MANY):
                pass
            if (yield from source.begins(END_OF_TOOL_CALL)):
                source.skip(len(END_OF_TOOL_CALL))
        else:
            draft.content(source.recorded)


def read_llama3_json(source: Source, draft: Draft) -> Steps[None]:
    """`{"name": ..., "parameters": {...}}` in place of a text, or behind `<|python_tag|>`; and more behind `;`."""
    source.record()
    while True:
        yield from source.skip_space()
        while (yield from _call_comes(source, draft, needs_arguments=True)):
            source.record()
            while (yield from source.more()) and source.take(_BETWEEN_CALLS):
                pass
        draft.content(source.recorded)
        if not (yield from _content_up_to(source, draft, PYTHON_TAG, _UP_TO_ANGLE)):
            return


def read_mistral(source: Source, draft: Draft) -> Steps[None]:
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, or `[TOOL_CALLS]name[ARGS]{...}` of later models."""
    while (yield from _content_up_to(source, draft, TOOL_CALLS, _UP_TO_BRACKET)):
        if (yield from source.skip_space()) in {"[", "{"}:
            yield from _list_of_calls(source, draft)
        else:
            yield from _named_call(source, draft)


def _list_of_calls(source: Source, draft: Draft) -> Steps[None]:
    if (yield from source.next()) == "[":
        source.skip(1)
        yield from source.skip_space()
    while (yield from _call_comes(source, draft)):
        source.record()
        if (yield from source.skip_space()) == "]":
            source.skip(1)
            return
        if (yield from source.next()) == ",":
            source.skip(1)
            yield from source.skip_space()
    draft.content(source.recorded)


def _named_call(source: Source, draft: Draft) -> Steps[None]:
    name = yield from _read_name(source)
    yield from source.skip_space()
    if (yield from source.begins(CALL_ID)):
        source.skip(len(CALL_ID))
        yield from _read_name(source)
        yield from source.skip_space()
    if (yield from source.begins(ARGS)):
        source.skip(len(ARGS))
        yield from source.skip_space()
    if FUNCTION_NAME.fullmatch(name) and (yield from source.next()) == "{":
        draft.call(name)
        yield from read_value(source, draft.arguments)
    else:
        draft.content(source.recorded)


def _read_name(source: Source) -> Steps[str]:
    name = ""
    while (yield from source.more()) and (piece := source.take(_OF_NAME)):
        name += piece
    return name


def _call_comes(source: Source, draft: Draft, *, needs_arguments: bool = False) -> Steps[bool]:
    """Read a call, if one comes next."""
    is_object = (yield from source.next()) == "{"
    return is_object and (yield from read_call(source, draft, needs_arguments=needs_arguments))


def _content_up_to(source: Source, draft: Draft, marker: str, up_to: re.Pattern[str]) -> Steps[bool]:
    """Pass content on up to a marker, which is read and recorded. Returns False at the end.

    up_to: what has no first character of a marker.
    """
    while (yield from source.more()):
        if text := source.take(up_to):
            draft.content(text)
        elif (yield from source.begins(marker)):
            source.record(source.skip(len(marker)))
            return True
        else:
            draft.content(source.skip(1))
    return False


READERS: Mapping[str, Callable[[Source, Draft], Steps[None]]] = {
    "hermes": read_hermes,
    "llama3_json": read_llama3_json,
    "mistral": read_mistral,
}
"""By the format's name. Text in a format of a later version is content."""
MARKERS: Mapping[str, tuple[str, ...]] = {
    "hermes": (TOOL_CALL, END_OF_TOOL_CALL),
    "llama3_json": (PYTHON_TAG,),
    "mistral": (TOOL_CALLS, CALL_ID, ARGS),
}
"""What of a format can be special tokens, which the text must show all the same where calls are looked for."""
