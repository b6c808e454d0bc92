"""What a client asks for: fields that a gateway serves itself, and the rest in our words.

What becomes of every field of OpenAI's bodies is in README.md, a table that a test holds against the types of the
`openai` package. The fields of the generation itself are those of a row of `genqueue batch`, in
`batch.openai_rows`: what is served there is served here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..batch.openai_rows import CHAT, COMPLETIONS, body_fields
from ..contract import GenerationRequest, InvalidRequest, Priority
from ..contract.requests import MAX_SEED
from ..submission import parse_request
from .api_keys import OPEN
from .calls import Kind
from .errors import ApiError, api_error, refused
from .settings import GatewaySettings

URLS: Mapping[Kind, str] = {"chat": CHAT, "completions": COMPLETIONS}
PRIORITIES: Mapping[str, Priority] = {
    "auto": "normal", "default": "normal", "flex": "low", "priority": "high",
}  # fmt: skip
"""By service_tier."""
SERVED_HERE = frozenset({
    "model", "stream", "stream_options", "n", "store", "metadata", "user", "safety_identifier", "service_tier",
    "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "reasoning_effort", "verbosity",
})  # fmt: skip
"""Fields of both bodies that are no matter of the generation."""
NAMES = ("max_completion_tokens", "max_tokens", "min_tokens")
"""What max_new_tokens and min_new_tokens may be called by a client."""


@dataclass(frozen=True)
class Asked:
    """A request that was read.  requests: one for each answer."""

    model: str
    requests: list[GenerationRequest]
    stream: bool
    include_usage: bool
    store: bool
    logprobs: bool
    service_tier: str | None
    priority: Priority
    metadata: dict[str, str] | None
    user: str | None


def read_asked(body: Mapping[str, Any], kind: Kind, owner: str, settings: GatewaySettings) -> Asked:
    """Of the body of a chat completion or a completion.  Raises ApiError, which names the parameter."""
    given = {name: value for name, value in body.items() if value is not None}
    stream = flag_in(given, "stream")
    refuse_other_values(given, _AS_ALWAYS)
    text_in(given, "prompt_cache_key", 1024)  # what was read of a prompt is used again without one
    tier = text_in(given, "service_tier", 64)
    if tier is not None and tier not in PRIORITIES:
        raise refused("service_tier", f"it is one of {', '.join(PRIORITIES)}")
    requests = _requests(given, kind, owner, settings)
    return Asked(
        model=model_in(given),
        requests=requests,
        stream=stream,
        include_usage=_include_usage(given, stream=stream),
        store=flag_in(given, "store"),
        logprobs=requests[0].logprobs is not None,
        service_tier=tier,
        priority=PRIORITIES[tier or "auto"],
        metadata=metadata_in(given),
        user=text_in(given, "user", 512) or text_in(given, "safety_identifier", 512),
    )


def metadata_in(given: Mapping[str, Any]) -> dict[str, str] | None:
    """What the client keeps with an answer, within OpenAI's bounds.  Raises ApiError."""
    value = given.get("metadata")
    if value is None:
        return None
    is_fit = isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    if not is_fit or len(value) > 16 or any(len(key) > 64 or len(each) > 512 for key, each in value.items()):
        raise refused("metadata", "up to 16 texts of 512 characters, by names of 64")
    return dict(value)


def cache_salt(given: str | None, owner: str, settings: GatewaySettings) -> str | None:
    """Under which salt what is read of a prompt is kept: the owner's, unless all share it."""
    if owner == OPEN or settings.share_prefixes:
        return given
    return hashlib.sha256(f"{owner}\0{given or ''}".encode(errors="replace")).hexdigest()[:32]


def translated(read: Callable[[], dict[str, Any]], names: Mapping[str, str]) -> GenerationRequest:
    """The request that those fields make.  names: what the client calls fields of ours.  Raises ApiError."""
    try:
        return parse_request(read(), {})
    except InvalidRequest as error:
        raise api_error(error, names) from None


def _requests(given: dict[str, Any], kind: Kind, owner: str, settings: GatewaySettings) -> list[GenerationRequest]:
    options = {} if settings.max_tokens is None else {"max_new_tokens": settings.max_tokens}
    fields = {name: value for name, value in given.items() if name not in SERVED_HERE}
    if (salt := cache_salt(text_in(fields, "cache_salt", 256), owner, settings)) is not None:
        fields["cache_salt"] = salt
    prompts = _prompts(fields) if kind == "completions" else [{}]
    copies = _copies(given)
    if len(prompts) * copies > settings.max_choices:
        raise refused("n", f"a request may have {settings.max_choices} answers here", code="too_many")
    if copies > 1 and copies * len(json.dumps(fields)) > settings.max_body_bytes:
        raise refused(
            "n", f"so many jobs of this size take more than {settings.max_body_bytes} bytes", code="too_many"
        )
    requests = []
    names = {f"{name.split('_', maxsplit=1)[0]}_new_tokens": name for name in reversed(NAMES) if name in given}
    for prompt in prompts:
        of_prompt = {**fields, **prompt}
        request = translated(lambda body=of_prompt: body_fields(body, URLS[kind], options), names)  # type: ignore[misc]
        requests += [_seeded(request, number) for number in range(copies)]
    return requests


def _prompts(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a list of several, each alone."""
    prompt = fields.get("prompt")
    is_many = isinstance(prompt, list) and len(prompt) > 1 and all(isinstance(each, str | list) for each in prompt)
    return [{"prompt": [each]} for each in prompt] if is_many and isinstance(prompt, list) else [{}]


def _seeded(request: GenerationRequest, number: int) -> GenerationRequest:
    """With one seed, several answers would all be the same."""
    if request.seed is None or number == 0:
        return request
    return request.model_copy(update={"seed": (request.seed + number) & MAX_SEED})


def _copies(given: Mapping[str, Any]) -> int:
    value = given.get("n", 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise refused("n", "a number of answers from 1", code="invalid_value")
    return value


def model_in(given: Mapping[str, Any]) -> str:
    """Raises ApiError."""
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise refused("model", "the name of a model, as GET /v1/models lists them", code="invalid_value")
    return model


def _include_usage(given: Mapping[str, Any], *, stream: bool) -> bool:
    options = given.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise refused("stream_options", "an object", code="invalid_value")
    if not stream:
        raise refused("stream_options", "it wants stream: true beside it")
    for name, value in options.items():
        if name == "include_obfuscation" and value in (None, False):
            continue
        if name != "include_usage" or not isinstance(value, bool | None):
            raise refused(f"stream_options.{name}", "not to be had here: leave it out")
    return bool(options.get("include_usage"))


_AS_ALWAYS: Mapping[str, tuple[Any, ...]] = {
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "prompt_cache_retention": ("in_memory",),
    "prompt_cache_options": ({}, {"mode": "implicit"}),
}
"""Values that say what is done anyway."""


def refuse_other_values(given: Mapping[str, Any], as_always: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ApiError where a field has another value than those that are served of it."""
    for name, values in as_always.items():
        if name in given and given[name] not in values:
            raise refused(name, f"here it can only be {' or '.join(map(str, values))}: leave it out")


def flag_in(given: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """Raises ApiError."""
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise refused(name, "true or false", code="invalid_value")
    return value


def text_in(given: Mapping[str, Any], name: str, longest: int) -> str | None:
    """Raises ApiError."""
    value = given.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > longest):
        raise refused(name, f"a text of up to {longest} characters", code="invalid_value")
    return value


def priority_of(header: str | None, tier: Priority, highest: Priority) -> Priority:
    """Of a request.  header: X-Priority, which goes before service_tier.  highest: that its key may ask for.

    Raises ApiError.
    """
    order: tuple[Priority, ...] = ("low", "normal", "high")
    asked: Priority = tier
    if header is not None:
        found = [each for each in order if each == header]
        if not found:
            raise refused("X-Priority", "high, normal or low", code="invalid_value")
        asked = found[0]
    if order.index(asked) > order.index(highest):
        raise ApiError(403, f"this key may ask for the priority {highest} at most", code="priority")
    return asked
