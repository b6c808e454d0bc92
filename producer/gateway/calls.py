"""What was asked of a gateway, as the record of its job keeps it: so that any gateway can answer for it.

A call has one job for each of its answers. The id of the first is the call's; those of the others begin with it.
"""

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..contract import InvalidRequest
from ..contract.keys import check_job_id

Kind = Literal["chat", "completions", "responses"]

ID_PREFIX: Mapping[str, str] = {"chat": "chatcmpl-", "completions": "cmpl-", "responses": "resp_"}
"""Of an answer's id, before the call's."""
NAMES_OF: Mapping[Kind, Mapping[str, str]] = {
    "chat": {"max_new_tokens": "max_tokens"},
    "completions": {"max_new_tokens": "max_tokens"},
    "responses": {"max_new_tokens": "max_output_tokens", "messages": "input", "logprobs": "top_logprobs"},
}
"""What clients call fields of ours, by our names."""
FIELD = "gateway_call"
"""Of the hash of the call's first job."""


class Call(BaseModel):
    """One request that was taken in."""

    # A gateway of a later version may have written it; and what clients write stands in no traceback.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: str
    kind: Kind
    owner: str
    model: str
    created: int
    """Unix seconds."""
    answers: int = 1
    is_leased: bool = True
    """It ends where nobody waits for it."""
    include_usage: bool = False
    logprobs: bool = False
    service_tier: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    response: dict[str, Any] | None = None
    """Of a response: the fields of its object that it was asked with."""
    items: list[dict[str, Any]] | None = None
    """Of a response: its input."""

    @property
    def public_id(self) -> str:
        """As clients know it."""
        return ID_PREFIX[self.kind] + self.id

    @property
    def job_ids(self) -> list[str]:
        """One for each answer."""
        return [self.id, *(f"{self.id}-{number}" for number in range(1, self.answers))]

    @classmethod
    def read(cls, raw: bytes | None) -> "Call | None":
        """From the field of the hash. None for what is none: anybody may have written it."""
        try:
            return None if raw is None else cls.model_validate_json(raw)
        except ValidationError:
            return None

    def to_field(self) -> dict[str, Any]:
        """For the hash."""
        return {FIELD: self.model_dump_json(exclude_defaults=True)}


def new_call_id() -> str:
    """Of a request that is made once."""
    return uuid.uuid4().hex


def call_id_of_key(owner: str, idempotency_key: str) -> str:
    """Of a request that may be made again: the same for the same key of the same owner, and for nobody else."""
    return "key-" + hashlib.sha256(f"{owner}\0{idempotency_key}".encode(errors="replace")).hexdigest()[:40]


def call_id_in(public_id: str, kind: Kind) -> str | None:
    """The call behind an id that a client has sent; None for what is none."""
    prefix = ID_PREFIX[kind]
    if not public_id.startswith(prefix):
        return None
    try:
        return check_job_id(public_id.removeprefix(prefix))
    except InvalidRequest:
        return None
