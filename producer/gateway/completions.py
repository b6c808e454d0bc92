"""Chat completions and completions: `POST`, and what can be done by the id of an answer afterwards."""

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .answering import answer, stream
from .asked import URLS, Asked, read_asked
from .bodies import read_json
from .calls import Call, Kind, call_id_of_key, new_call_id
from .cursors import Cursor
from .errors import ApiError, refused
from .gateway import Gateway, call_of, gateway_of, owner_of, priority_in

Handler = Callable[[Request], Awaitable[Response]]
DELETED = {"chat": "chat.completion.deleted", "completions": "text_completion.deleted"}


def routes() -> list[Route]:
    """Of both kinds."""
    return [route for kind in URLS for route in _routes(kind)]


def _routes(kind: Kind) -> list[Route]:
    one = f"{URLS[kind]}/{{id}}"
    return [
        Route(URLS[kind], _create(kind), methods=["POST"]),
        Route(one, _retrieve(kind), methods=["GET"]),
        Route(one, _delete(kind), methods=["DELETE"]),
    ]


def _create(kind: Kind) -> Handler:
    async def create(request: Request) -> Response:
        """Submit the jobs of an answer, and answer with what becomes of them."""
        gateway = gateway_of(request)
        body = await read_json(request, gateway.settings)
        asked = read_asked(body, kind, owner_of(request), gateway.settings)
        call = await submitted(gateway, request, asked, kind)
        if asked.stream:
            return await stream(gateway, request, call, Cursor.start(call.answers))
        return await answer(gateway, request, call)

    return create


def _retrieve(kind: Kind) -> Handler:
    async def retrieve(request: Request) -> Response:
        """The answer once it is whole; or, to whoever takes events, what comes after those that were seen."""
        gateway, call = gateway_of(request), await call_of(request, kind)
        after = request.query_params.get("starting_after") or request.headers.get("last-event-id")
        wants = request.query_params.get("stream")
        if wants not in (None, "true", "false"):
            raise refused("stream", "true or false", code="invalid_value")
        is_event_source = "text/event-stream" in request.headers.get("accept", "")
        if wants == "true" or (wants is None and (after is not None or is_event_source)):
            seen = Cursor.parse(after, call.answers) if after is not None else Cursor.start(call.answers)
            return await stream(gateway, request, call, seen)
        return await answer(gateway, request, call)

    return retrieve


def _delete(kind: Kind) -> Handler:
    async def delete(request: Request) -> Response:
        """Delete the answer and all that is kept of it. One that is not whole is cancelled first."""
        gateway, call = gateway_of(request), await call_of(request, kind)
        for job_id in reversed(call.job_ids):  # the first has the record by which the others are found
            await gateway.producer.delete(job_id)
        return JSONResponse({"id": call.public_id, "object": DELETED[kind], "deleted": True})

    return delete


async def submitted(gateway: Gateway, request: Request, asked: Asked, kind: Kind) -> Call:
    """The call that a request makes; or that it has made before, by its Idempotency-Key.  Raises ApiError."""
    priority = priority_in(request, asked)
    await gateway.check_served(asked.model)
    owner, key = owner_of(request), request.headers.get("idempotency-key")
    call = Call(
        id=new_call_id() if key is None else call_id_of_key(owner, checked_key(key)),
        kind=kind,
        owner=owner,
        model=asked.model,
        created=int(time.time()),
        answers=len(asked.requests),
        is_leased=gateway.jobs_depend_on_clients and not asked.store,
        include_usage=asked.include_usage,
        logprobs=asked.logprobs,
        service_tier=asked.service_tier,
        metadata=asked.metadata,
        user=asked.user,
    )
    if key is not None and (before := await gateway.producer.find_call(call.id)) is not None:
        check_same(before, call)
        call = before
    await gateway.producer.submit_call(
        call,
        asked.requests,
        priority=priority,
        lease_s=gateway.presence.lease_s,
        result_ttl_s=gateway.settings.store_ttl_s if asked.store else None,
        max_queued=gateway.settings.max_queued,
    )
    return call


def checked_key(key: str) -> str:
    """An Idempotency-Key.  Raises ApiError."""
    if not 1 <= len(key) <= 255:
        raise refused("Idempotency-Key", "1 to 255 characters", code="invalid_value")
    return key


def check_same(before: Call, now: Call) -> None:
    """Raises ApiError where the same key has made another call. That the requests are the same, `submit` sees."""
    if (before.kind, before.model, before.answers) != (now.kind, now.model, now.answers):
        raise ApiError(
            422, "this Idempotency-Key was used for another request: use a new one", code="idempotency_key_in_use"
        )
