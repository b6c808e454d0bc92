"""Which fields of a request a fleet of workers understands: requests are read strictly, and grow by new fields.

A worker publishes the fields that it knows; one that publishes none is of the first release and knows the base. A
producer asks only about a request that goes beyond the base, so that nothing is spent on all others.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .chat import Message
from .errors import InvalidRequest
from .requests import GenerationRequest

BASE_REQUEST_FIELDS = frozenset({
    "prompt", "messages", "prompt_token_ids", "add_special_tokens", "skip_special_tokens",
    "max_new_tokens", "min_new_tokens", "stop", "ignore_eos", "seed", "logprobs",
    "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
})  # fmt: skip
"""Those of the first release of contract 1, for ever: every worker knows them. New ones are never added here."""

_BASE_MESSAGE_FIELDS = frozenset({"role", "content"})
_OF_MESSAGES = "messages."
"""Before the name of a field of a message, among names of fields of a request."""

REQUEST_FIELDS = frozenset(GenerationRequest.model_fields).union(
    _OF_MESSAGES + name for name in Message.model_fields.keys() - _BASE_MESSAGE_FIELDS
)
"""Those that this version knows, those of messages beyond the first release's included."""

PUBLISHED_FIELDS = REQUEST_FIELDS | {"group"}
"""What a worker of this version publishes: these, and what it knows of a job beside its request."""


def fields_beyond_base(wire: Mapping[str, Any]) -> frozenset[str]:
    """Fields of a request, in its wire form, that not every worker knows. Empty: nobody needs to be asked."""
    of_messages = frozenset[str]().union(*wire.get("messages") or ()) - _BASE_MESSAGE_FIELDS
    return (frozenset(wire) - BASE_REQUEST_FIELDS).union(_OF_MESSAGES + name for name in of_messages)


def check_understood(wanted: Iterable[frozenset[str]], understood: Iterable[frozenset[str] | None]) -> None:
    """Raises InvalidRequest where no live worker would understand one of the requests.

    wanted: for each request, its `fields_beyond_base`.
    understood: for each live worker of the model, the fields that it publishes; None for one that publishes none.
    Without a live worker nothing is known, and nothing refused: the worker that comes may be a newer one.
    """
    fleet = [BASE_REQUEST_FIELDS if fields is None else fields for fields in understood]
    if not fleet:
        return
    for fields in wanted:
        if not any(fields <= known for known in fleet):
            missing = fields.difference(*fleet) or fields
            names = " and ".join(repr(name) for name in sorted(missing))
            refusal = InvalidRequest(
                f"no live worker understands {names}: upgrade the workers of the model, or leave "
                f"{'it' if len(missing) == 1 else 'them'} out"
            )
            refusal.param = "group" if "group" in missing else None
            raise refusal
