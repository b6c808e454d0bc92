"""Tools of the Responses API, where a function is not within an object of its own, in the words of a chat."""

from collections.abc import Mapping
from typing import Any

from .errors import refused

_FIELDS = ("name", "description", "parameters", "strict")
MODES = ("none", "auto", "required")


def chat_tools(given: Mapping[str, Any]) -> dict[str, Any]:
    """`tools`, `tool_choice` and `parallel_tool_calls` of a chat completion.  Raises ApiError."""
    tools = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(_list(given.get("tools", []), "tools"))]
    choice, allowed = _choice(given.get("tool_choice", "auto"))
    if allowed is not None:
        there = {tool["function"]["name"] for tool in tools}
        if unknown := sorted(allowed - there):
            raise refused("tool_choice.tools", f"{unknown[0]!r:.80} is not among the tools", code="invalid_value")
        tools = [tool for tool in tools if tool["function"]["name"] in allowed]
    parallel = given.get("parallel_tool_calls", True)
    if not isinstance(parallel, bool):
        raise refused("parallel_tool_calls", "true or false", code="invalid_value")
    if not tools:
        if choice not in ("none", "auto"):
            raise refused("tool_choice", "it says what becomes of tools, of which there are none")
        return {}
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}


def shown_tools(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As the response's object has them."""
    return [{"type": "function", **{name: tool.get(name) for name in _FIELDS}} for tool in given.get("tools", [])]


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise refused(where, 'an object, as {"type": "function", "name": ...}', code="invalid_value")
    if (kind := tool.get("type")) != "function":
        raise refused(f"{where}.type", f"tools of the type {kind!r:.40} are not served here: functions are")
    for name, value in tool.items():
        if name not in ("type", *_FIELDS) and value is not None:
            raise refused(f"{where}.{name}", "not to be had here: leave it out")
    if not isinstance(tool.get("name"), str):
        raise refused(f"{where}.name", "a text", code="invalid_value")
    function = {name: tool[name] for name in _FIELDS if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _choice(choice: Any) -> tuple[Any, set[str] | None]:
    """The choice of a chat; and where only some of the tools are allowed, their names."""
    if choice in MODES:
        return choice, None
    match choice:
        case {"type": "function", "name": str(name), **rest} if not rest:
            return {"type": "function", "function": {"name": name}}, None
        case {"type": "allowed_tools", "tools": list(tools), **rest} if rest.keys() <= {"mode"}:
            mode = rest.get("mode") or "auto"
            names = [_name(tool) for tool in tools]
            if mode in MODES and names:
                return mode, set(names)
    raise refused(
        "tool_choice",
        f'one of {", ".join(MODES)}, {{"type": "function", "name": ...}}, or allowed_tools of these',
        code="invalid_value",
    )


def _name(tool: Any) -> str:
    match tool:
        case {"type": "function", "name": str(name)}:
            return name
    raise refused("tool_choice.tools", 'a list of {"type": "function", "name": ...}', code="invalid_value")


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise refused(name, "a list", code="invalid_value")
    return value
