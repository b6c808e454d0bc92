"""Every field of OpenAI's request bodies, by the types of the `openai` package, with a value for each."""

import types
from collections.abc import Iterable, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typing_extensions
from typing_extensions import is_typeddict


def fields_of(*bodies: type) -> dict[str, Any]:
    """Name and type of each field, over the forms of a body."""
    return {name: hint for body in bodies for name, hint in get_type_hints(body).items()}


def forms_of(hint: Any) -> list[type]:
    """The typed dictionaries that a field may be, or may have in a list."""
    return [hint] if is_typeddict(hint) else [form for each in get_args(hint) for form in forms_of(each)]


def value_of(hint: Any) -> Any:  # noqa: PLR0911 - a case for each kind of type
    """Some value of that type, which says something: no empty list, and never what is the default of a flag."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is object or hint is str:
        return "x"
    if origin in (Required, NotRequired, Annotated, typing_extensions.Required):
        return value_of(arguments[0])
    if origin in (Union, types.UnionType):
        return value_of(next(each for each in arguments if each is not type(None)))
    if origin is Literal:
        return arguments[-1]
    if is_typeddict(hint):
        hints = get_type_hints(hint, include_extras=True)
        total = getattr(hint, "__total__", True)
        wanted = (Required, typing_extensions.Required) if not total else ()
        return {name: value_of(each) for name, each in hints.items() if total or get_origin(each) in wanted}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"x": value_of(arguments[1])}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return [value_of(arguments[0])]
    return {bool: True, int: 2, float: 0.5}.get(hint, "x")
