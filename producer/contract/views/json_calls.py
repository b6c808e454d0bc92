"""Calls as models write them: JSON objects with a name and arguments.

No more than a name is waited for: arguments are passed on as they come, and are not parsed. Models make mistakes,
and what is no call must be told from one early, before any of it was passed on as one.
"""

import json
import re
from collections.abc import Callable

from ..chat import FUNCTION_NAME
from .draft import Draft
from .source import Source, Steps

_ARGUMENTS = frozenset({"arguments", "parameters"})
_BESIDE = frozenset({"id", "type"})
"""Keys that a call may have before its name and its arguments. Any other shows that it is none."""
_SHORT = 64
_OF_SHORT = re.compile(r'[^"\\\x00-\x1f]+')
_OF_STRING = re.compile(r'[^"\\]+')
_OF_SCALAR = re.compile(r"[0-9A-Za-z+\-.]+", re.ASCII)
_BETWEEN = re.compile(r"[\s0-9A-Za-z+\-.:,_]+", re.ASCII)
"""What stands in an object or a list outside of strings. Anything else is a mistake, and ends it."""
_CLOSING = {"{": "}", "[": "]"}


class _Call:
    """One call, as far as it is known."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._name: str | None = None
        self._held: str | None = None
        """Arguments that came before the name, or in a form that is not passed on."""
        self.has_begun = False

    def member(self, source: Source, key: str) -> Steps[bool]:
        """Read the value of that key. Returns False where no call has it."""
        if key == "name" and not self.has_begun:
            name = yield from _read_short(source)
            if name is None or not FUNCTION_NAME.fullmatch(name):
                return False
            self._name = name
        elif key in _ARGUMENTS and not self.has_begun:
            yield from self._arguments(source)
        elif self.has_begun or key in _BESIDE:
            yield from read_value(source, _pass_over)
        else:
            return False
        if self._name is not None and self._held is not None:
            self._begin(self._held)
        return True

    def end(self) -> None:
        """The object has ended. One without arguments is a call without any."""
        if self._name is not None and not self.has_begun:
            self._begin("{}")

    def _arguments(self, source: Source) -> Steps[None]:
        if self._name is not None and (yield from source.next()) == "{":
            self._begin("")
            yield from read_value(source, self._draft.arguments)
            return
        held: list[str] = []
        yield from read_value(source, held.append)
        self._held = _unpacked("".join(held))

    def _begin(self, arguments: str) -> None:
        if not self.has_begun:
            assert self._name is not None, "a call has a name"
            self._draft.call(self._name)
            self.has_begun = True
            if arguments:
                self._draft.arguments(arguments)


def read_call(source: Source, draft: Draft, *, needs_arguments: bool = False) -> Steps[bool]:
    """Read the object that begins with the `{` that comes next. Returns False where it is no call.

    needs_arguments: an object with a name alone is none.
    """
    call = _Call(draft)
    after = ","
    while after == ",":
        source.skip(1)
        yield from source.skip_space()
        key = yield from _read_short(source)
        if key is None or (yield from source.skip_space()) != ":":
            return call.has_begun
        source.skip(1)
        yield from source.skip_space()
        if not (yield from call.member(source, key)):
            return False
        after = yield from source.skip_space()
    if after == "}":
        source.skip(1)
        if not needs_arguments:
            call.end()
    return call.has_begun


def read_value(source: Source, emit: Callable[[str], None]) -> Steps[None]:
    """Pass a value on as it comes, up to its end or to what no JSON has there."""
    first = yield from source.next()
    if first == '"':
        yield from _read_string(source, emit)
    elif first in _CLOSING:
        yield from _read_nested(source, emit)
    else:
        while (yield from source.more()) and (text := source.take(_OF_SCALAR)):
            emit(text)


def _read_nested(source: Source, emit: Callable[[str], None]) -> Steps[None]:
    """An object or a list."""
    awaited: list[str] = []
    while character := (yield from source.next()):
        if character == '"':
            yield from _read_string(source, emit)
        elif character in _CLOSING:
            awaited.append(_CLOSING[character])
            emit(source.skip(1))
        elif character == awaited[-1]:
            awaited.pop()
            emit(source.skip(1))
            if not awaited:
                return
        elif text := source.take(_BETWEEN):
            emit(text)
        else:
            return


def _read_string(source: Source, emit: Callable[[str], None]) -> Steps[None]:
    emit(source.skip(1))
    while character := (yield from source.next()):
        if character == "\\":
            emit(source.skip(1))
            if (yield from source.more()):
                emit(source.skip(1))
        elif character == '"':
            emit(source.skip(1))
            return
        else:
            emit(source.take(_OF_STRING))


def _read_short(source: Source) -> Steps[str | None]:
    """A key or a name: a string without escapes, and no longer than a name is. None for anything else."""
    if (yield from source.next()) != '"':
        return None
    source.skip(1)
    text = ""
    while (yield from source.more()) and (piece := source.take(_OF_SHORT)):
        text += piece
        if len(text) > _SHORT:
            return None
    if (yield from source.next()) != '"':
        return None
    source.skip(1)
    return text


def _unpacked(arguments: str) -> str:
    """Some models write the object as a string, as OpenAI's form has it; and null where there are none."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):  # a model may repeat a bracket to the end
        return arguments
    return value if isinstance(value, str) else "{}" if value is None else arguments


def _pass_over(_: str) -> None:
    """Of a key that says nothing."""
