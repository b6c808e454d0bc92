"""A request becomes a call: once, however often it is sent with the same Idempotency-Key."""

import hashlib
from collections.abc import Sequence

from starlette.requests import Request

from ..contract import GenerationRequest, InvalidRequest, JobConflict, Priority, QueueFull
from ..contract.groups import check_group
from ..eta import start_in_s
from ..job_status import paces_of
from .calls import Call, call_id_of_key, new_call_id
from .errors import NOT_AGAIN, ApiError, refused, retry_after
from .gateway import Gateway, owner_of

FULL_AGAIN_S = 5.0
"""When to come again to a full queue, where nobody can tell when a worker takes the next job."""


def call_id_for(request: Request) -> str:
    """Of the call that a request makes.  Raises ApiError."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return new_call_id()
    if not 1 <= len(key) <= 255:
        raise refused("Idempotency-Key", "1 to 255 characters", code="invalid_value")
    return call_id_of_key(owner_of(request), key)


async def counted_of(
    gateway: Gateway, request: Request, requests: Sequence[GenerationRequest]
) -> Sequence[GenerationRequest]:
    """What its key's limits count of it: no tokens of an answer that it has asked for before."""
    is_known = "idempotency-key" in request.headers and await gateway.producer.find_call(call_id_for(request))
    return () if is_known else requests


async def take_in(
    gateway: Gateway,
    request: Request,
    call: Call,
    requests: Sequence[GenerationRequest],
    *,
    priority: Priority,
    is_stored: bool,
) -> Call:
    """Submit its jobs. Returns the call that its id stands for, which may be there before.

    Raises ApiError, and errors of the producer.
    """
    is_repeatable = "idempotency-key" in request.headers
    if is_repeatable:
        call = await _known(gateway, call)
    try:
        is_new = await gateway.producer.submit_call(
            call,
            requests,
            priority=priority,
            group=group_of(call),
            lease_s=gateway.presence.lease_s,
            result_ttl_s=gateway.settings.store_ttl_s if is_stored else None,
            max_queued=gateway.settings.max_queued,
        )
    except QueueFull as error:
        again_s = start_in_s(0, paces_of(await gateway.producer.workers_lately(call.model)))
        raise ApiError(
            429, str(error), code=error.code, headers=retry_after(FULL_AGAIN_S if again_s is None else again_s)
        ) from error
    except JobConflict:
        raise _used_already() from None
    # The same request may have come at the same time, to another gateway.
    return await _known(gateway, call) if is_repeatable and not is_new else call


async def _known(gateway: Gateway, call: Call) -> Call:
    """The call of that id, which may have been made before.  Raises ApiError for another."""
    known = await gateway.producer.find_call(call.id)
    if known is None:
        return call
    if _shape(known) != _shape(call):  # that the requests are the same, `submit` sees
        raise _used_already()
    return known


def _used_already() -> ApiError:
    said = "this Idempotency-Key was used for another request: use a new one"
    return ApiError(422, said, code="idempotency_key_in_use", headers=NOT_AGAIN)


def group_of(call: Call) -> str | None:
    """Whose turn it has: its owner's; where there are no keys, that of whom the request names, if anybody."""
    whose = call.owner or call.user
    if not whose:
        return None
    try:
        return check_group(whose)
    except InvalidRequest:  # it is too long, say: OpenAI's may be any text
        return hashlib.sha256(whose.encode()).hexdigest()[:32]


def _shape(call: Call) -> tuple[str, str, int]:
    return call.kind, call.model, call.answers
