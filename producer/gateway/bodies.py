"""The body of a request: one JSON object, within bounds of size and time."""

import asyncio
from typing import Any

from starlette.requests import Request

from .. import strict_json
from .errors import ApiError
from .settings import GatewaySettings


async def read_json(request: Request, settings: GatewaySettings) -> dict[str, Any]:
    """The object in it.  Raises ApiError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # also what a page elsewhere cannot send without asking first
        raise ApiError(415, "the body must be JSON: send content-type: application/json", code="not_json")
    check_plain(request)
    return parse_object(await read_bytes(request, settings))


def check_plain(request: Request) -> None:
    """Raises ApiError for a body that is compressed: how much there is in it nobody could tell before."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        said = f"a body that is encoded ({encoding:.40}) is not read here: send it as it is"
        raise ApiError(415, said, code="content_encoding", headers=_CLOSE)


async def read_bytes(request: Request, settings: GatewaySettings) -> bytes:
    """All of it.  Raises ApiError once it is too large or takes too long."""
    most = settings.max_body_bytes
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise ApiError(
            408, f"the body did not come within {settings.body_s:g} s", code="timeout", headers=_CLOSE
        ) from None
    return bytes(body)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Raises ApiError for what is no JSON object."""
    try:
        body = strict_json.read_json(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="not_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object, with the fields of the request", code="not_json")
    return body


_CLOSE = {"connection": "close"}


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body may have {most} bytes: send less", code="body_too_large", headers=_CLOSE)
