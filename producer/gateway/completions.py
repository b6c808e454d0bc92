"""Chat completions and completions: `POST`, and what can be done by the id of an answer afterwards."""

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..contract import Priority
from . import stored_chats
from .answering import Answering
from .asked import URLS, Asked, read_asked
from .bodies import read_json
from .calls import Call, Kind
from .chunks import Chunks, frame_of, whole
from .cursors import seen_before, seen_by
from .gateway import Gateway, call_of, gateway_of, key_of, owner_of, priority_in
from .taking_in import call_id_for, counted_of, take_in

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
        priority = priority_in(request, asked.priority)
        context = await gateway.check_served(asked.model)
        counted = await counted_of(gateway, request, asked.requests)
        async with await gateway.visits.begin(key_of(request), counted, context) as visit:
            call = await _submitted(gateway, request, asked, kind, priority)
            visit.submitted()
            if asked.store and kind == "chat":
                await stored_chats.remember(gateway, call)
            if is_read_later(request):
                return _taken_in(call)
            answering = Answering(gateway, request, call, visit)
            if asked.stream:
                return await answering.stream(seen_before(request, call.answers), Chunks(call))
            return JSONResponse(whole(call, await answering.ends()))

    return create


def _retrieve(kind: Kind) -> Handler:
    async def retrieve(request: Request) -> Response:
        """The answer once it is whole; or, to whoever takes events, what comes after those that were seen."""
        gateway, call = gateway_of(request), await call_of(request, kind)
        seen = seen_by(request, call.answers)
        async with await gateway.visits.begin(key_of(request)) as visit:
            answering = Answering(gateway, request, call, visit)
            if seen is None:
                return JSONResponse(whole(call, await answering.ends()))
            return await answering.stream(seen, Chunks(call))

    return retrieve


def _delete(kind: Kind) -> Handler:
    async def delete(request: Request) -> Response:
        """Delete the answer and all that is kept of it. One that is not whole is cancelled first."""
        gateway, call = gateway_of(request), await call_of(request, kind)
        for job_id in reversed(call.job_ids):  # the first has the record by which the others are found
            await gateway.producer.delete(job_id)
        return JSONResponse({"id": call.public_id, "object": DELETED[kind], "deleted": True})

    return delete


def is_read_later(request: Request) -> bool:
    """Whether the client asks to be answered at once, and reads the answer by GET.  Source: RFC 7240."""
    preferences = request.headers.get("prefer", "").lower().split(",")
    return any(each.partition(";")[0].strip() == "respond-async" for each in preferences)


def _taken_in(call: Call) -> Response:
    url = f"{URLS[call.kind]}/{call.public_id}"
    headers = {"location": url, "preference-applied": "respond-async"}
    return JSONResponse({**frame_of(call), "choices": []}, status_code=202, headers=headers)


async def _submitted(gateway: Gateway, request: Request, asked: Asked, kind: Kind, priority: Priority) -> Call:
    """The call that a request makes; or that it has made before, by its Idempotency-Key.  Raises ApiError."""
    call = Call(
        id=call_id_for(request),
        kind=kind,
        owner=owner_of(request),
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
    return await take_in(gateway, request, call, asked.requests, priority=priority, is_stored=asked.store)
