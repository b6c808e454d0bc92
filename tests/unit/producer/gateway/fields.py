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
    is_typeddict,
)


def fields_of(*bodies: type) -> dict[str, Any]:
    """Name and type of each field, over the forms of a body."""
    return {name: hint for body in bodies for name, hint in get_type_hints(body).items()}


def value_of(hint: Any) -> Any:  # noqa: PLR0911 - a case for each kind of type
    """Some value of that type, which says something: no empty list, and never what is the default of a flag."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint is object or hint is str:
        return "x"
    if origin in (Required, NotRequired, Annotated):
        return value_of(arguments[0])
    if origin in (Union, types.UnionType):
        return value_of(next(each for each in arguments if each is not type(None)))
    if origin is Literal:
        return arguments[-1]
    if is_typeddict(hint):
        return {
            name: value_of(each) for name, each in get_type_hints(hint).items() if name in hint.__required_keys__
        }
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"x": value_of(arguments[1])}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return [value_of(arguments[0])]
    return {bool: True, int: 2, float: 0.5}.get(hint, "x")
