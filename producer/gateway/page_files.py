"""The page at `/`: files of this package as they are, and what a browser is told of them.

All are read at the start, and each has a path of its own: nothing that is asked for is looked up on a disk. The
browser is told to take no script, style or connection but those from here, and never to make markup of text.
"""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    "require-trusted-types-for 'script'", "trusted-types 'none'",
))  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # a browser asks each time whether its copy is that of this version
}
PATHS = {("/" if path.name == INDEX else f"/page/{path.name}"): path for path in FOLDER.iterdir()}
"""They hold no secret: nobody is asked for a key."""
_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}


def routes() -> list[Route]:
    """Of this file."""
    return [Route(path, _showing(file), include_in_schema=False) for path, file in PATHS.items()]


def _showing(file: Path) -> Callable[[Request], Awaitable[Response]]:
    content = file.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": tag, "content-type": f"{_TYPES[file.suffix]}; charset=utf-8"}

    async def show(request: Request) -> Response:
        """One file."""
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=HEADERS | {"etag": tag})
        return Response(content, headers=headers)

    return show
