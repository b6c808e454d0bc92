"""Input items of a response: in the one form in which they are kept, and as turns of the chat that they are.

Items that a response has given are items that another one takes: a client may send back what it got.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import refused

_TEXTS = ("input_text", "output_text", "text")
_ROLES = ("user", "assistant", "system", "developer")
_FIELDS = {
    "message": ("role", "content", "phase"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("summary", "content", "encrypted_content"),
}
_OF_ALL = ("type", "id", "status")
"""Which an item has that a response has given."""
LONGEST_ID = 64
"""Of a call."""

Item = dict[str, Any]
Turn = dict[str, Any]


def items_of(given: Any) -> list[Item]:
    """The `input` of a body.  Raises ApiError, which names the item."""
    if isinstance(given, str):
        return [_message({"role": "user", "content": given}, "input")]
    if not isinstance(given, list) or not given:
        raise refused("input", "a text, or a list of items", code="invalid_value")
    return [_item(item, f"input[{number}]") for number, item in enumerate(given)]


def turns_of(items: Iterable[Item]) -> list[Turn]:
    """The messages that they are: what an assistant thought, said and called is one, as it was one answer."""
    turns: list[Turn] = []
    for item in items:
        last = turns[-1] if turns and turns[-1]["role"] == "assistant" else None
        match item["type"]:
            case "function_call_output":
                said = {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}
                turns.append(said)
            case "function_call":
                if last is None:
                    turns.append({"role": "assistant", "content": ""})
                function = {"name": item["name"], "arguments": item["arguments"]}
                called = {"id": item["call_id"], "type": "function", "function": function}
                turns[-1].setdefault("tool_calls", []).append(called)
            case "reasoning":
                if thought := _text(item.get("content") or item["summary"]):
                    turns.append({"role": "assistant", "content": "", "reasoning": thought})
            case _:
                text = _text(item["content"])
                if item["role"] == "assistant" and last is not None and last.keys() == _THOUGHT_ALONE:
                    last["content"] = text
                    continue
                role = "system" if item["role"] == "developer" else item["role"]
                turns.append({"role": role, "content": text})
    return turns


_THOUGHT_ALONE = {"role", "content", "reasoning"}


def check_outputs(items: Sequence[Item], before: Iterable[Mapping[str, Any]]) -> None:
    """Raises ApiError for what a tool has said to no call.  before: turns of the conversation so far."""
    called = {each["id"] for turn in before for each in turn.get("tool_calls") or () if "id" in each}
    for number, item in enumerate(items):
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in called:
            raise refused(
                f"input[{number}].call_id",
                f"no call {item['call_id']!r:.80} comes before it: give the function_call item, or the "
                "previous_response_id of the response that has it",
                code="invalid_value",
            )


def _item(item: Any, where: str) -> Item:
    if not isinstance(item, dict):
        raise refused(where, "an object, as {role, content}", code="invalid_value")
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind in _FIELDS:
        _check_fields(item, (*_OF_ALL, *_FIELDS[kind]), where)
    match kind:
        case "message":
            return _message(item, where)
        case "function_call":
            texts = {name: _text_in(item, name, where) for name in ("name", "arguments")}
            return {"type": kind, "call_id": _call_id(item, where), **texts}
        case "function_call_output":
            output = item.get("output")
            if not isinstance(output, str):
                output = _parts(output, "input_text", f"{where}.output")
            return {"type": kind, "call_id": _call_id(item, where), "output": output}
        case "reasoning":
            return _reasoning(item, where)
    raise refused(where, f"items of the type {kind!r:.40} are not served here: leave them out")


def _message(item: Mapping[str, Any], where: str) -> Item:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise refused(f"{where}.role", "user, assistant, system or developer", code="invalid_value")
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    own = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": _parts(parts, own, f"{where}.content")}


def _reasoning(item: Mapping[str, Any], where: str) -> Item:
    if item.get("encrypted_content") is not None:
        raise refused(f"{where}.encrypted_content", "it cannot be read here: leave the item out")
    content, summary = item.get("content"), item.get("summary")
    kept = {"type": "reasoning", "summary": _texts(summary, "summary_text", f"{where}.summary")}
    return kept if content is None else {**kept, "content": _texts(content, "reasoning_text", f"{where}.content")}


def _texts(given: Any, kind: str, where: str) -> list[dict[str, Any]]:
    parts: list[Any] = given if isinstance(given, list) else [None]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise refused(where, f'a list of {{"type": "{kind}", "text": ...}}', code="invalid_value")
    return [{"type": kind, "text": part["text"]} for part in parts]


def _parts(given: Any, kind: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise refused(where, "a text, or a list of texts", code="invalid_value")
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    for part in given:
        if not isinstance(part, dict) or part.get("type") not in _TEXTS or not isinstance(part.get("text"), str):
            raise refused(where, "text is the only content that is read here")
        _check_fields(part, ("type", "text", "annotations", "logprobs"), where)
    return [{"type": kind, "text": part["text"], **more} for part in given]


def _check_fields(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for name in given.keys() - set(known):
        if given[name] is not None:
            raise refused(f"{where}.{name}", "there is no such field here: leave it out")


def _call_id(item: Mapping[str, Any], where: str) -> str:
    value = item.get("call_id")
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_ID:
        raise refused(
            f"{where}.call_id", f"the id of a call, a text of up to {LONGEST_ID} characters", code="invalid_value"
        )
    return value


def _text_in(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise refused(f"{where}.{name}", "a text", code="invalid_value")
    return value


def _text(content: str | Iterable[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(str(part["text"]) for part in content)
