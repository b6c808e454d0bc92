"""Chat completions that were to be stored: the list of them, their messages, and their metadata.

Which there were stands in a sorted set of their owner's, by when they were made. What each is, its jobs tell, for
as long as they are kept. The place of one that is deleted stays: whoever deletes page by page goes on from it.
"""

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..contract import InvalidRequest, NoSuchJob
from ..ledger.wanting import note
from .answering import Answering
from .asked import URLS, metadata_in
from .bodies import read_json
from .calls import FIELD, ID_PREFIX, Call
from .chunks import whole
from .errors import refused
from .gateway import Gateway, call_of, gateway_of, key_of, owner_of
from .pages import Page

_FILTER = "metadata["
AT_ONCE = 100
"""Of a list."""
_LATE_S = 86_400
"""How much longer than an answer its place in the list may stay: it is passed over."""


def routes() -> list[Route]:
    """Of this file."""
    one = f"{URLS['chat']}/{{id}}"
    return [
        Route(URLS["chat"], list_chats, methods=["GET"]),
        Route(one, update, methods=["POST"]),
        Route(f"{one}/messages", messages, methods=["GET"]),
    ]


async def remember(gateway: Gateway, call: Call) -> None:
    """Have it in the list. Said again, nothing changes."""
    name, kept_s = gateway.producer.keys.stored(call.owner), gateway.settings.store_ttl_s + _LATE_S

    def add(client: Any) -> Any:
        pipeline = client.pipeline(transaction=True)
        pipeline.zadd(name, {call.id: call.created})
        pipeline.zremrangebyscore(name, "-inf", int(time.time()) - kept_s)
        pipeline.pexpire(name, 1000 * kept_s)
        return pipeline.execute()

    await gateway.producer.ask(add)


async def list_chats(request: Request) -> Response:
    """Those that are whole, the oldest first."""
    gateway, owner, query = gateway_of(request), owner_of(request), request.query_params
    page = Page.of(request, most=AT_ONCE, limit=20, order="asc")
    wanted = {name[len(_FILTER) : -1]: value for name, value in query.items() if name.startswith(_FILTER)}
    name = gateway.producer.keys.stored(owner)
    ids = list(map(bytes.decode, await gateway.producer.ask(lambda r: r.zrange(name, 0, -1))))

    def is_wanted(call: Call) -> bool:
        is_it = call.owner == owner and query.get("model") in (None, call.model)
        return is_it and wanted.items() <= (call.metadata or {}).items()

    async def some(call_ids: Sequence[str]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        for call in await gateway.producer.find_calls(call_ids):
            if call is not None and is_wanted(call) and (answer := await _whole(gateway, call)) is not None:
                answers.append(answer)
            if len(answers) > page.limit:
                break
        return answers

    behind = page.rest(ids, lambda each: ID_PREFIX["chat"] + each)
    return JSONResponse(await page.read(behind, some, AT_ONCE))


async def update(request: Request) -> Response:
    """Give it other metadata: nothing else of it can be changed."""
    gateway, known = gateway_of(request), await call_of(request, "chat")
    body = await read_json(request, gateway.settings)
    for name in body.keys() - {"metadata"}:
        raise refused(str(name), "metadata is all that can be changed", code="unsupported_parameter")
    if "metadata" not in body:
        raise refused("metadata", "it is what is to be changed: give it", code="missing_required_parameter")
    call = known.model_copy(update={"metadata": metadata_in(body)})
    await gateway.producer.do(note(call.id, FIELD, call.to_field()[FIELD]))
    async with await gateway.visits.begin(key_of(request)) as visit:
        return JSONResponse(whole(call, await Answering(gateway, request, call, visit).ends()))


async def messages(request: Request) -> Response:
    """What it was asked with, once it is whole."""
    gateway, call = gateway_of(request), await call_of(request, "chat")
    page = Page.of(request, most=100, limit=20, order="asc")
    turns = (await gateway.producer.past(call.id)).request.messages or ()
    items = [
        {
            "id": f"{call.public_id}-{number}",
            "content_parts": None,
            **turn.model_dump(mode="json", exclude_none=True),
        }
        for number, turn in enumerate(turns)
    ]
    return JSONResponse(page.listed(page.rest(items, lambda item: str(item["id"]))))


async def _whole(gateway: Gateway, call: Call) -> dict[str, Any] | None:
    """The answer; None where it is not whole, did not end well, or is not kept any more."""
    try:
        results = [(await gateway.producer.past(job_id)).result for job_id in call.job_ids]
    except (NoSuchJob, InvalidRequest):
        return None
    is_well = all(result.status == "finished" for result in results)
    return whole(call, [(result, None) for result in results]) if is_well else None
