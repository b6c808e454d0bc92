"""What a client of the Responses API asks for, as the chat that it is for the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..batch.openai_rows import CHAT, body_fields
from ..contract import GenerationRequest, Priority
from .asked import (
    PRIORITIES,
    cache_salt,
    flag_in,
    metadata_in,
    model_in,
    refuse_other_values,
    text_in,
    translated,
)
from .calls import NAMES_OF
from .errors import ApiError, refused
from .input_items import Item, Turn, check_outputs, items_of, turns_of
from .response_tools import chat_tools, shown_tools
from .settings import GatewaySettings

LOGPROBS = "message.output_text.logprobs"
"""The one thing that can be included."""
OF_THE_CHAT = frozenset({
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p", "repetition_penalty",
    "ignore_eos", "stop", "seed", "min_tokens", "cache_salt", "logit_bias",
})  # fmt: skip
"""Fields that mean what they do in a chat completion. OpenAI's Responses API has but the first two of them."""
SERVED_HERE = frozenset({
    "model", "input", "instructions", "previous_response_id", "stream", "stream_options", "store", "background",
    "metadata", "max_output_tokens", "top_logprobs", "include", "text", "service_tier", "user",
    "safety_identifier", "prompt_cache_key", "tools", "tool_choice", "parallel_tool_calls",
})  # fmt: skip
AS_ALWAYS: Mapping[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "reasoning": ({}, {"effort": "none"}, {"effort": None, "summary": None}),
    "prompt_cache_retention": ("in_memory",),
    "prompt_cache_options": ({}, {"mode": "implicit"}),
    "background_options": ({}, {"completion_window": "soonest"}),
}
"""Fields of which only these values are served, which say what is done anyway."""


@dataclass(frozen=True)
class AskedResponse:
    """A request that was read, but for the conversation before it.

    fields    of the response's object, as they are shown
    chat      of the chat that it is for the model, but for its messages
    """

    model: str
    stream: bool
    background: bool
    store: bool
    instructions: str | None
    previous_id: str | None
    items: list[Item]
    logprobs: bool
    user: str | None
    priority: Priority
    service_tier: str | None
    fields: dict[str, Any]
    chat: dict[str, Any]

    def request(self, before: Sequence[Turn], owner: str, settings: GatewaySettings) -> GenerationRequest:
        """The job's.  before: messages of the conversation so far.  Raises ApiError."""
        check_outputs(self.items, before)
        system = [{"role": "system", "content": self.instructions}] if self.instructions is not None else []
        body = {**self.chat, "messages": [*system, *before, *turns_of(self.items)]}
        if (salt := cache_salt(text_in(body, "cache_salt", 256), owner, settings)) is not None:
            body["cache_salt"] = salt
        options = {} if settings.max_tokens is None else {"max_new_tokens": settings.max_tokens}
        names = {**NAMES_OF["responses"], "response_format": "text.format"}
        return translated(lambda: body_fields(body, CHAT, options), names)


def read_response(body: Mapping[str, Any]) -> AskedResponse:
    """Of a body.  Raises ApiError, which names the parameter."""
    given = {name: value for name, value in body.items() if value is not None}
    _check_known(given)
    items = items_of(given.get("input"))
    tier = text_in(given, "service_tier", 64)
    if tier is not None and tier not in PRIORITIES:
        raise refused("service_tier", f"it is one of {', '.join(PRIORITIES)}")
    _check_stream_options(given)
    logprobs = _wants_logprobs(given)
    chat = {name: given[name] for name in OF_THE_CHAT & given.keys()} | chat_tools(given)
    chat |= {"logprobs": True, "top_logprobs": given.get("top_logprobs", 0)} if logprobs else {}
    if (form := _response_format(given)) is not None:
        chat["response_format"] = form
    if "max_output_tokens" in given:
        chat["max_completion_tokens"] = given["max_output_tokens"]
    store, background = flag_in(given, "store", default=True), flag_in(given, "background")
    if background and not store:
        raise refused("store", "an answer that is made in the background is stored: leave it out")
    return AskedResponse(
        model=model_in(given),
        stream=flag_in(given, "stream"),
        background=background,
        store=store,
        instructions=text_in(given, "instructions", 4_000_000),
        previous_id=text_in(given, "previous_response_id", 200),
        items=items,
        logprobs=logprobs,
        user=text_in(given, "user", 512) or text_in(given, "safety_identifier", 512),
        priority=PRIORITIES[tier or "auto"],
        service_tier=tier,
        fields=_shown(given, store=store, background=background),
        chat=chat,
    )


def _check_known(given: Mapping[str, Any]) -> None:
    refuse_other_values(given, AS_ALWAYS)
    for name in given.keys() - SERVED_HERE - OF_THE_CHAT - AS_ALWAYS.keys():
        raise refused(str(name), "there is no such field here: leave it out", code="unsupported_parameter")
    text_in(given, "prompt_cache_key", 1024)  # what was read of a prompt is used again without one
    form = given.get("text", {})
    if not isinstance(form, dict):
        raise refused("text", "an object", code="invalid_value")
    for name, value in form.items():
        if name == "format" and isinstance(value, dict | None):
            continue  # which is read as response_format
        if name != "verbosity" or value not in (None, "medium"):
            raise refused(f"text.{name}", "not to be had here: leave it out")


def _response_format(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """That of a chat completion, which has the fields of a schema in an object of their own."""
    form: dict[str, Any] = dict((given.get("text") or {}).get("format") or {})
    if form.get("type") != "json_schema":
        return form or None
    kind = form.pop("type")
    return {"type": kind, kind: form}


def _check_stream_options(given: Mapping[str, Any]) -> None:
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or any(
        name != "include_obfuscation" or value not in (None, False) for name, value in options.items()
    ):
        raise refused("stream_options", "not to be had here: leave it out")


def _wants_logprobs(given: Mapping[str, Any]) -> bool:
    included = given.get("include", [])
    if not isinstance(included, list) or any(each != LOGPROBS for each in included):
        raise refused("include", f"only {LOGPROBS} can be included here")
    top = given.get("top_logprobs", 0)
    if isinstance(top, bool) or not isinstance(top, int):
        raise refused("top_logprobs", "a number from 0 to 20", code="invalid_value")
    if top and not included:
        raise refused("top_logprobs", f"it wants include: [{LOGPROBS!r}] beside it")
    return bool(included)


def _shown(given: Mapping[str, Any], *, store: bool, background: bool) -> dict[str, Any]:
    """Fields of the object that only say what was asked for."""
    return {
        "instructions": given.get("instructions"),
        "previous_response_id": given.get("previous_response_id"),
        "temperature": given.get("temperature", 1.0),
        "top_p": given.get("top_p", 1.0),
        "presence_penalty": given.get("presence_penalty", 0.0),
        "frequency_penalty": given.get("frequency_penalty", 0.0),
        "top_logprobs": given.get("top_logprobs", 0),
        "max_output_tokens": given.get("max_output_tokens"),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "tool_choice": given.get("tool_choice", "auto"),
        **({"tools": tools} if (tools := shown_tools(given)) else {}),
        "metadata": metadata_in(given) or {},
        "text": {"format": (given.get("text") or {}).get("format") or {"type": "text"}},
        "service_tier": given.get("service_tier", "default"),
        "safety_identifier": given.get("safety_identifier"),
        "prompt_cache_key": given.get("prompt_cache_key"),
        "store": store,
        "background": background,
        **({"user": given["user"]} if "user" in given else {}),
    }


def not_over(public_id: str) -> ApiError:
    """Of a previous response that is not complete."""
    return ApiError(
        400,
        f"the response {public_id:.80} has no whole answer that could be gone on from: wait for it",
        param="previous_response_id",
        code="previous_response_not_complete",
    )
