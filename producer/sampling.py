"""The options of a request, as keyword arguments of `submit`: names and types, for editors and type checkers.

What each means, its bounds and its default stand in `contract.requests`; a test holds the two together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from .contract import Message, Priority


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen and when to stop. None is as not given."""

    max_new_tokens: int | None
    min_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    """One string, or up to 16."""
    ignore_eos: bool | None
    logprobs: int | None
    skip_special_tokens: bool | None
    add_special_tokens: bool | None
    prompt_lookup: bool | None
    cache_salt: str | None
    tools: Sequence[Mapping[str, Any]] | None
    """Functions that the model may call, in OpenAI's form. They need messages."""
    tool_choice: Literal["none", "auto", "required"] | Mapping[str, Any] | None
    chat_template_kwargs: Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    """OpenAI's: {"type": "json_object"}, or {"type": "json_schema", "json_schema": {"name": …, "schema": …}}."""
    grammar: Mapping[str, Any] | None
    """{"type": "regex", "regex": …}, {"type": "choice", "choice": […]} or {"type": "lark", "lark": …}."""
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    bad_words: str | Sequence[str] | None
    allowed_token_ids: Sequence[int] | None
    output_token_ids: Sequence[int] | None
    """The beginning of the output; see `Producer.continue_job`, which fills it in."""


class SubmitArguments(SamplingOptions, total=False):
    """What `submit` takes beside the prompt, the model and `n`, by which its overloads differ."""

    messages: Sequence[Message | Mapping[str, Any]] | None
    prompt_token_ids: Sequence[int] | None
    job_id: str | None
    priority: Priority
    group: str | None
    queue_ttl_s: float | None
    timeout_s: int | None
    result_ttl_s: int | None
    max_queued: int | None
