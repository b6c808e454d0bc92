"""`/v1/batches`: a file of requests that is answered whenever nobody waits for anything else."""

import re
import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .asked import metadata_in
from .batch_rows import ENDPOINTS
from .bodies import read_json
from .errors import NOT_AGAIN, ApiError, not_found, refused
from .gateway import gateway_of, key_of, owner_of
from .pages import Page
from .settings import GatewaySettings
from .stored_batches import BATCH_ID, AskedBatch, StoredBatch, new_batch_id
from .uploads import lifetime

FIELDS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
WINDOW = "^([1-9][0-9]{0,5})([smhd])$"
"""Of a completion_window; OpenAI's is always 24h."""
AT_ONCE = 100
"""Of a list."""
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def routes() -> list[Route]:
    """Of this file."""
    one = "/v1/batches/{id}"
    return [
        Route("/v1/batches", create, methods=["POST"]),
        Route("/v1/batches", list_batches, methods=["GET"]),
        Route(one, retrieve, methods=["GET"]),
        Route(f"{one}/cancel", cancel, methods=["POST"]),
    ]


async def create(request: Request) -> Response:
    """Begin a batch. Whether its rows will do is seen once a gateway runs it."""
    gateway, owner = gateway_of(request), owner_of(request)
    body = await read_json(request, gateway.settings)
    asked = read_batch(body, gateway.settings)
    async with await gateway.visits.begin(key_of(request)):
        await gateway.files.find(owner, asked.input_file_id)
        said = await gateway.batches.begin(owner, asked)
    if said == "no_file":
        raise not_found(f"file {asked.input_file_id}")
    if said == "too_many":
        most = gateway.settings.max_batches
        raise ApiError(
            429,
            f"a key may have {most} batches: come again when older ones are gone",
            code=said,
            headers=NOT_AGAIN,
        )
    gateway.runners.wake()
    return JSONResponse((await gateway.batches.find(owner, asked.id)).described())


async def retrieve(request: Request) -> Response:
    """As it is now."""
    return JSONResponse((await _batch(request)).described())


async def cancel(request: Request) -> Response:
    """End it early: rows that have their answer keep it."""
    batch = await _batch(request)
    await gateway_of(request).batches.cancel(batch.owner, batch.asked.id)
    batch = await _batch(request)
    if batch.status not in ("cancelling", "cancelled"):
        said = f"the batch is {batch.status}: it cannot be cancelled any more"
        raise ApiError(409, said, code="batch_is_over", headers=NOT_AGAIN)
    return JSONResponse(batch.described())


async def list_batches(request: Request) -> Response:
    """The owner's, the newest first."""
    store, owner = gateway_of(request).batches, owner_of(request)
    page = Page.of(request, most=AT_ONCE, limit=20)

    async def some(ids: Sequence[str]) -> list[dict[str, Any]]:
        return [batch.described() for batch in await store.some(owner, ids)]

    return JSONResponse(await page.read(page.behind(await store.ids(owner), BATCH_ID), some, AT_ONCE))


def read_batch(body: dict[str, Any], settings: GatewaySettings) -> AskedBatch:
    """Of the body of a request.  Raises ApiError, which names the parameter."""
    given = {name: value for name, value in body.items() if value is not None}
    for name in given.keys() - set(FIELDS):
        raise refused(str(name), "there is no such field here: leave it out", code="unsupported_parameter")
    for name in FIELDS[:3]:
        if not isinstance(given.get(name), str):
            raise refused(name, "a text, which has to be there", code="invalid_value")
    if given["endpoint"] not in ENDPOINTS:
        raise refused("endpoint", f"one of {', '.join(ENDPOINTS)}")
    now = int(time.time())
    return AskedBatch(
        id=new_batch_id(),
        input_file_id=given["input_file_id"],
        endpoint=given["endpoint"],
        completion_window=given["completion_window"],
        created_at=now,
        expires_at=now + window_s(given["completion_window"], settings.files_ttl_s),
        in_flight=settings.batch_in_flight,
        max_tokens=settings.max_tokens,
        share_prefixes=settings.share_prefixes,
        output_ttl_s=_output_ttl_s(given.get("output_expires_after"), settings),
        metadata=metadata_in(given),
    )


def window_s(text: str, longest_s: int) -> int:
    """Of a completion_window.  Raises ApiError."""
    match = re.fullmatch(WINDOW, text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= longest_s:
        raise refused("completion_window", f"a time as 24h, 30m or 2d, up to {longest_s}s", code="invalid_value")
    return seconds


def _output_ttl_s(given: Any, settings: GatewaySettings) -> int:
    if given is None:
        return settings.files_ttl_s
    if not isinstance(given, dict) or given.keys() != {"anchor", "seconds"} or given["anchor"] != "created_at":
        raise refused("output_expires_after", "an anchor `created_at`, and seconds", code="invalid_value")
    return lifetime("output_expires_after.seconds", given["seconds"], settings)


async def _batch(request: Request) -> StoredBatch:
    return await gateway_of(request).batches.find(owner_of(request), request.path_params["id"])
