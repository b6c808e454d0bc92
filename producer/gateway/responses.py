"""The Responses API: create, retrieve, stream, cancel, delete, and the items that a response was made of."""

import time
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..contract import GenerationResult, InvalidRequest, NoSuchJob
from ..contract.chat import Message
from .answering import Answering
from .bodies import read_json
from .calls import Call, call_id_in
from .cursors import seen_before, seen_by
from .errors import ApiError
from .gateway import Gateway, call_of, gateway_of, key_of, owner_of, priority_in
from .input_items import Turn
from .pages import Page
from .response_bodies import AskedResponse, not_over, read_response
from .response_objects import ResponseEvents, object_in_order, plain_object, response_object
from .taking_in import call_id_for, counted_of, take_in

CANCEL_S = 10.0
"""How long a worker may take to end a job that is cancelled."""
ITEMS_AT_MOST = 100


def routes() -> list[Route]:
    """Of this file."""
    one = "/v1/responses/{id}"
    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route(one, retrieve, methods=["GET"]),
        Route(one, delete, methods=["DELETE"]),
        Route(f"{one}/cancel", cancel, methods=["POST"]),
        Route(f"{one}/input_items", input_items, methods=["GET"]),
    ]


async def create(request: Request) -> Response:
    """Submit the job of a response, and answer as it was asked: at once, with its end, or with its events."""
    gateway = gateway_of(request)
    owner, settings = owner_of(request), gateway.settings
    asked = read_response(await read_json(request, settings))
    priority = priority_in(request, asked.priority)
    context = await gateway.check_served(asked.model)
    job = asked.request(await _conversation(gateway, asked.previous_id, owner), owner, settings)
    counted = await counted_of(gateway, request, [job])
    async with await gateway.visits.begin(key_of(request), counted, context) as visit:
        call = _call(gateway, request, asked)
        call = await take_in(gateway, request, call, [job], priority=priority, is_stored=asked.store)
        visit.submitted()
        answering = Answering(gateway, request, call, visit)
        if asked.stream:
            return await answering.stream(seen_before(request, 1), ResponseEvents(call, is_eager=asked.background))
        if asked.background:
            return JSONResponse(await _now(gateway, call))
        [(result, _)] = await answering.ends()
        return JSONResponse(await _ended(gateway, call, result))


async def retrieve(request: Request) -> Response:
    """The response as it is now; or with stream=true its events, after those that were seen."""
    gateway, call = gateway_of(request), await call_of(request, "responses")
    if (seen := seen_by(request, 1)) is None:
        return JSONResponse(await _now(gateway, call))
    async with await gateway.visits.begin(key_of(request)) as visit:
        answering = Answering(gateway, request, call, visit)
        return await answering.stream(seen, ResponseEvents(call, is_eager=True))


async def cancel(request: Request) -> Response:
    """End it early. What it has by then is kept."""
    gateway, call = gateway_of(request), await call_of(request, "responses")
    await gateway.producer.cancel(call.id)
    await gateway.producer.result(call.id, timeout_s=CANCEL_S, check=False)
    return JSONResponse(await _now(gateway, call))


async def delete(request: Request) -> Response:
    """Delete it and all that is kept of it. One that has not ended is cancelled first."""
    gateway, call = gateway_of(request), await call_of(request, "responses")
    await gateway.producer.delete(call.id)
    return JSONResponse({"id": call.public_id, "object": "response", "deleted": True})


async def input_items(request: Request) -> Response:
    """What the response was asked with, without the conversation before it."""
    call = await call_of(request, "responses")
    page = Page.of(request, most=ITEMS_AT_MOST, limit=20)
    items = [
        {"id": f"msg_{call.id}-in-{number}", "status": "completed", **item}
        for number, item in enumerate(call.items or [])
    ]
    return JSONResponse(page.listed(page.rest(items, lambda item: str(item["id"]))))


def _call(gateway: Gateway, request: Request, asked: AskedResponse) -> Call:
    return Call(
        id=call_id_for(request),
        kind="responses",
        owner=owner_of(request),
        model=asked.model,
        created=int(time.time()),
        is_leased=gateway.jobs_depend_on_clients and not asked.store,
        logprobs=asked.logprobs,
        user=asked.user,
        response=asked.fields,
        items=asked.items,
    )


async def _conversation(gateway: Gateway, previous_id: str | None, owner: str) -> list[Turn]:
    """What was said up to the end of a response: the messages of its job, which hold those before, and its answer.

    Instructions are no part of it: each response has its own.
    """
    if previous_id is None:
        return []
    call_id = call_id_in(previous_id, "responses")
    call = await gateway.producer.find_call(call_id) if call_id else None
    if call is None or call.kind != "responses" or call.owner != owner:
        raise ApiError(
            404,
            f"there is no response {previous_id:.80} here",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    try:
        past = await gateway.producer.past(call.id)
    except (NoSuchJob, InvalidRequest):
        raise not_over(previous_id) from None
    if past.result.status != "finished":
        raise not_over(previous_id)
    turns = [_turn(each) for each in (*(past.request.messages or ()), past.result.message)]
    has_instructions = (call.response or {}).get("instructions") is not None
    return turns[has_instructions:]


def _turn(message: Message) -> Turn:
    """As a body has it."""
    return {"content": "", **message.model_dump(mode="json", exclude_defaults=True)}


async def _now(gateway: Gateway, call: Call) -> dict[str, Any]:
    """The object as it is now."""
    newest = await gateway.producer.newest(call.id)
    if newest is None:
        return response_object(call, "queued")
    if isinstance(newest, GenerationResult):
        return object_in_order(call, newest)
    result = newest.event.data
    if not isinstance(result, GenerationResult):
        return response_object(call, "in_progress")
    return await _ended(gateway, call, result)


async def _ended(gateway: Gateway, call: Call, result: GenerationResult) -> dict[str, Any]:
    """The object of a job that has ended; what its result does not tell, as in which order, its events do."""
    if (whole := plain_object(call, result)) is not None:
        return whole
    events = ResponseEvents(call, is_eager=True)
    parts: list[dict[str, Any]] = []
    async with aclosing(gateway.producer.stream(call.id)) as stream:
        async for streamed in stream:
            parts = list(events.of(0, streamed)) or parts
    response: dict[str, Any] = parts[-1]["response"]
    return response
