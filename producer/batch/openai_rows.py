"""Rows of OpenAI's batch input: `custom_id`, `method`, `url` and `body`, and what the body says in our words.

What changes the meaning and is not known here is refused, and so is a value that cannot be had. Sources: OpenAI's
API reference, The request input object; vLLM's names for what OpenAI has none for, which are ours as well.
"""

from collections.abc import Mapping
from typing import Any

from ..contract import InvalidRequest
from ..contract.refusals import ELSEWHERE
from ..contract.requests import SamplingParams

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
DEFAULT_TEMPERATURE = 1.0
"""OpenAI's, where neither the body nor the command says one."""
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, of the completions alone."""

_RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
}
_SAME = frozenset(SamplingParams.model_fields) | {
    "add_special_tokens", "cache_salt", "chat_template_kwargs", "grammar", "prompt_lookup", "response_format",
    "tool_choice", "tools",
}  # fmt: skip
_MEANINGLESS = frozenset(
    {"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
     "prompt_cache_retention", "stream_options"}
)  # fmt: skip
"""Who asks, and how it is billed and kept. The model is the command's."""
_AS_IF_NOT_GIVEN: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "stream": (False,), "echo": (False,), "suffix": ("",), "logit_bias": ({},),
    "functions": ([],), "function_call": ("none", "auto"), "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip
"""Values that say what is done anyway."""


class FieldRefused(InvalidRequest):
    """A field of a body cannot be had here, or not with that value.  why: for whoever sent it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"body.{name:.80}: {why}")
        self.param = name
        self.why = why


def is_row(value: Mapping[str, Any]) -> bool:
    """Whether an object is of this format, well or badly."""
    return not value.keys().isdisjoint({"body", "url", "method"})


def custom_id(value: object) -> str:
    """Raises InvalidRequest."""
    if not isinstance(value, str) or len(value) > 512:
        raise InvalidRequest("custom_id must be a text of up to 512 characters")
    return value


def endpoint(row: Mapping[str, Any]) -> str:
    """Which form the answer has. One of the two, also where the row names another, which `request_fields` says."""
    return COMPLETIONS if row.get("url") == COMPLETIONS else CHAT


def request_fields(row: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our request.  options: of the command, for what the body does not say.  Raises InvalidRequest."""
    url, body = row.get("url"), row.get("body")
    if url not in (CHAT, COMPLETIONS):
        raise InvalidRequest(f"url must be {CHAT} or {COMPLETIONS}")
    if row.get("method", "POST") != "POST":
        raise InvalidRequest("method must be POST")
    if not isinstance(body, dict):
        raise InvalidRequest("body must be an object, with the fields of the request")
    return body_fields(body, url, options)


def body_fields(body: Mapping[str, Any], url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """As `request_fields`, of a body alone.  Raises FieldRefused, and InvalidRequest."""
    given = {name: value for name, value in body.items() if value is not None}
    fields = _prompt(given, url)
    fields.update(_logprobs(given, url))
    _leave_out_what_no_tools_need(given)
    for name, value in given.items():
        if value in _AS_IF_NOT_GIVEN.get(name, ()):
            continue
        if name in _SAME:
            fields[name] = value
        elif name in _RENAMED:
            fields[_RENAMED[name]] = value
        elif name not in _MEANINGLESS:
            raise FieldRefused(name, _why_not(name))
    defaults: dict[str, Any] = {"temperature": DEFAULT_TEMPERATURE}
    if url == COMPLETIONS:
        defaults["max_new_tokens"] = DEFAULT_COMPLETION_TOKENS
    return {**defaults, **options, **fields}


def _prompt(given: dict[str, Any], url: str) -> dict[str, Any]:
    """Takes it out of the body."""
    wanted, other = ("messages", "prompt") if url == CHAT else ("prompt", "messages")
    if wanted not in given or other in given:
        refusal = InvalidRequest(f"the body of {url} has {wanted}, and no {other}")
        refusal.param = wanted if wanted not in given else other
        raise refusal
    value = given.pop(wanted)
    if wanted == "messages":
        return {"messages": [_message(turn) for turn in value] if isinstance(value, list) else value}
    if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
        return {"prompt_token_ids": value}
    if isinstance(value, list) and len(value) == 1:
        [value] = value
        return {"prompt_token_ids" if isinstance(value, list) else "prompt": value}
    if isinstance(value, list):
        raise FieldRefused("prompt", "one prompt a row; give each a row of its own")
    return {"prompt": value}


def _leave_out_what_no_tools_need(given: dict[str, Any]) -> None:
    """An empty list is none; without tools, both of these say what is done anyway; with a named function, one."""
    if given.get("tools") == []:
        del given["tools"]
    if isinstance(given.get("tool_choice"), dict):  # which is called once
        given.pop("parallel_tool_calls", None)
    if "tools" not in given:
        given.pop("parallel_tool_calls", None)
        if given.get("tool_choice") in ("none", "auto"):
            del given["tool_choice"]


def _message(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    turn = {name: value for name, value in turn.items() if value is not None and value != []}
    if turn.get("role") == "developer":  # the later name of the same
        turn["role"] = "system"
    turn.pop("parsed", None)
    if isinstance(calls := turn.get("tool_calls"), list):
        turn["tool_calls"] = [_call(call) for call in calls]
    return turn


def _call(call: Any) -> Any:
    """Of an assistant. Sent back by openai-python, it holds what the client has read of it, and its place."""
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = {name: value for name, value in call["function"].items() if name != "parsed_arguments"}
    return {**{name: value for name, value in call.items() if name != "index"}, "function": function}


def _logprobs(given: dict[str, Any], url: str) -> dict[str, Any]:
    """Takes them out of the body: a flag and a number in a chat, a number in a completion."""
    if url == COMPLETIONS:
        return {}
    wanted, top = given.pop("logprobs", False), given.pop("top_logprobs", None)
    if not isinstance(wanted, bool):
        raise FieldRefused("logprobs", "true or false; top_logprobs takes the number")
    if not wanted and top:
        raise FieldRefused("top_logprobs", "it wants logprobs: true beside it")
    return {"logprobs": top or 0} if wanted else {}


def _why_not(name: str) -> str:
    if name in _AS_IF_NOT_GIVEN:
        return ELSEWHERE.get(name, "not to be had here: leave it out") if name != "stream" else "leave it out"
    return "there is no such field here, and the answer may depend on it: leave it out"
