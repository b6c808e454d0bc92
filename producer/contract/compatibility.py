"""Which fields of a request a fleet of workers understands: requests are read strictly, and grow by new fields.

A worker publishes the fields that it knows; one that publishes none is of the first release and knows the base. A
producer asks only about a request that goes beyond the base, so that nothing is spent on all others.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InvalidRequest
from .requests import GenerationRequest

BASE_REQUEST_FIELDS = frozenset({
    "prompt", "messages", "prompt_token_ids", "add_special_tokens", "skip_special_tokens",
    "max_new_tokens", "min_new_tokens", "stop", "ignore_eos", "seed", "logprobs",
    "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
})  # fmt: skip
"""Those of the first release of contract 1, for ever: every worker knows them. New ones are never added here."""

REQUEST_FIELDS = frozenset(GenerationRequest.model_fields)
"""Those that this version knows."""


def published_fields(fields: Iterable[str] = REQUEST_FIELDS) -> str:
    """What a worker publishes in its RQ hash as `request_fields`."""
    return ",".join(sorted(fields))


def fields_beyond_base(wire: Mapping[str, Any]) -> frozenset[str]:
    """Fields of a request, in its wire form, that not every worker knows. Empty: nobody needs to be asked."""
    return frozenset(wire) - BASE_REQUEST_FIELDS


def check_understood(newer_fields: Iterable[frozenset[str]], fleet: Iterable[frozenset[str] | None]) -> None:
    """Raises InvalidRequest where no live worker would understand one of the requests.

    newer_fields: `fields_beyond_base` of each request.
    fleet: the fields that each live worker of the model publishes; None for one that publishes none. Without a
    live worker nothing is known, and nothing refused: the worker that comes may be a newer one.
    """
    known_to = [BASE_REQUEST_FIELDS if fields is None else fields for fields in fleet]
    if not known_to:
        return
    for newer in newer_fields:
        if not any(newer <= known for known in known_to):
            missing = newer.difference(*known_to) or newer
            names = " and ".join(repr(name) for name in sorted(missing))
            raise InvalidRequest(
                f"no live worker understands {names}: upgrade the workers of the model, or leave "
                f"{'it' if len(missing) == 1 else 'them'} out"
            )
