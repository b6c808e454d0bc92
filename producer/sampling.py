"""The options of a request, as keyword arguments of `submit`: names and types, for editors and type checkers.

What each means, its bounds and its default stand in `contract.requests`; a test holds the two together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


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
    output_token_ids: Sequence[int] | None
    """The beginning of the output; see `Producer.continue_job`, which fills it in."""
