"""What every request passes: its id, the key that it comes with, and what it is told where nobody answers.

Pure ASGI, so that streams pass untouched.
"""

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..loopback import is_loopback
from .api_keys import ApiKey, ApiKeys
from .errors import ApiError, retry_after, unforeseen
from .last_words import LastWords
from .page_files import PATHS as PAGE_PATHS

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready", "/openapi.json", *PAGE_PATHS})
"""Where nobody is asked for a key."""
MAX_HEAD_BYTES = 2**16
"""Of a path and of all headers."""
_CLOSE = {"connection": "close"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Entrance:
    """Lets in whoever has a key; where there are none, whoever asks this machine by a name of its own."""

    def __init__(self, app: ASGIApp, api_keys: ApiKeys | None) -> None:
        self._app = app
        self._api_keys = api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))

        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            _check_head(scope, headers)
            scope["path"] = _without_slash(scope["path"])
            key = self._check(scope["path"], headers)
            scope.setdefault("state", {}).update(api_key=key, request_id=request_id)
            await self._app(scope, receive, send_with_id)
        except ApiError as error:
            await error_response(error)(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the process ends
            if not has_begun:
                await error_response(_ending())(scope, receive, send_with_id)
            raise
        except Exception:
            if has_begun:
                raise
            logger.exception("request %s failed", request_id)
            await error_response(unforeseen())(scope, receive, send_with_id)

    def _check(self, path: str, headers: Headers) -> ApiKey | None:
        """Raises ApiError."""
        if self._api_keys is None:
            _require_loopback_name(headers.get("host", ""))
            return None
        if path in OPEN_PATHS:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = self._api_keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            said = "this API key is not known" if token else "an API key is missing"
            raise ApiError(
                401,
                f"{said}: send one as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return key


def _ending() -> ApiError:
    said = "this gateway ends: try again, here or at another"
    return ApiError(503, said, code="gateway_ending", headers={**retry_after(1), **_CLOSE})


def error_response(error: ApiError) -> Response:
    """As OpenAI's clients read it."""
    kind = LastWords if error.headers.get("connection") == "close" else Response
    return kind(error.to_json(), error.status, error.headers, media_type="application/json")


def _without_slash(path: str) -> str:
    """Without one at its end: a redirect to there would name `http` behind a proxy that speaks TLS."""
    return path if path == "/" or path.endswith("//") else path.removesuffix("/")


def _check_head(scope: Scope, headers: Headers) -> None:
    """Raises ApiError for what h11 lets through: any head that comes at once, and a body with two lengths."""
    if "content-length" in headers and "transfer-encoding" in headers:  # a proxy could end it elsewhere
        raise ApiError(400, "a body has one length: send content-length or chunks", headers=_CLOSE)
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    size += sum(len(name) + len(value) for name, value in scope["headers"])
    if size > MAX_HEAD_BYTES:
        said = f"path and headers may have {MAX_HEAD_BYTES} bytes: send less"
        raise ApiError(431, said, code="head_too_large", headers=_CLOSE)


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _require_loopback_name(host: str) -> None:
    """A page elsewhere can point its own name at 127.0.0.1, but the browser sends that name."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if not is_loopback(name.strip("[]")):
        raise ApiError(403, "without API keys the gateway answers to localhost only", code="no_api_keys")
