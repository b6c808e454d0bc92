"""`/v1/files`: what clients upload for batches, and what batches write."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..loopback import is_loopback
from .errors import ApiError
from .gateway import Gateway, gateway_of, key_of, owner_of
from .pages import Page
from .stored_files import AT_ONCE, FILE_ID, FileStore, StoredFile
from .uploads import Upload


def routes() -> list[Route]:
    """Of this file."""
    one = "/v1/files/{id}"
    return [
        Route("/v1/files", upload, methods=["POST"]),
        Route("/v1/files", list_files, methods=["GET"]),
        Route(one, retrieve, methods=["GET"]),
        Route(one, delete, methods=["DELETE"]),
        Route(f"{one}/content", content, methods=["GET"]),
    ]


async def upload(request: Request) -> Response:
    """Keep a file."""
    gateway = gateway_of(request)
    _refuse_a_page_elsewhere(request, gateway)
    async with await gateway.visits.begin(key_of(request)):
        file = await Upload(request, gateway.files, gateway.settings, owner_of(request)).run()
    return JSONResponse(file.described())


async def list_files(request: Request) -> Response:
    """The owner's, page by page."""
    store, owner, purpose = gateway_of(request).files, owner_of(request), request.query_params.get("purpose")
    page = Page.of(request, most=10_000, limit=10_000)

    async def some(ids: Sequence[str]) -> list[dict[str, Any]]:
        return [file.described() for file in await store.some(owner, ids) if purpose in (None, file.purpose)]

    ids = page.behind(await store.ids(owner), FILE_ID)
    return JSONResponse(await page.read(ids, some, AT_ONCE))


async def retrieve(request: Request) -> Response:
    """What is known of one."""
    return JSONResponse((await _file(request, gateway_of(request).files)).described())


async def content(request: Request) -> Response:
    """Its bytes, part by part. The browser is to keep them, and not to show them."""
    store = gateway_of(request).files
    file = await _file(request, store)
    headers = {
        "content-length": str(file.bytes),
        "content-disposition": f"attachment; filename*=utf-8''{quote(file.filename, safe='', errors='replace')}",
        "x-content-type-options": "nosniff",
    }
    pieces = store.content(owner_of(request), file)
    return StreamingResponse(pieces, headers=headers, media_type="application/octet-stream")


async def delete(request: Request) -> Response:
    """Nothing of it is left. A batch that reads it fails."""
    store = gateway_of(request).files
    file = await _file(request, store)
    await store.delete(owner_of(request), file.id)
    return JSONResponse({"id": file.id, "object": "file", "deleted": True})


def _refuse_a_page_elsewhere(request: Request, gateway: Gateway) -> None:
    """Where no key is asked for, a page could send a form unasked, as no browser lets it send JSON."""
    origin = request.headers.get("origin")
    if origin is None or gateway.api_keys is not None or {origin, "*"} & set(gateway.settings.cors_origins):
        return
    if not is_loopback(_host_of(origin)):
        raise ApiError(403, "pages of other sites may not upload files here", code="cross_origin")


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:  # no browser sends it
        return ""


async def _file(request: Request, store: FileStore) -> StoredFile:
    return await store.find(owner_of(request), request.path_params["id"])
