"""The application: which path is whose, and how what goes wrong is answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ..contract import GenqueueError
from ..ending import end
from ..settings import ProducerSettings
from . import (
    batches as batches_api,
    completions,
    files as files_api,
    health,
    models,
    openapi,
    page_files,
    queue_paths,
    responses,
    stored_chats,
)
from .api_keys import ApiKeys
from .batch_runners import BatchRunners
from .entrance import Entrance, error_response
from .errors import ApiError, api_error
from .gateway import Gateway
from .lasting import lasting
from .metrics import Measured, Metrics
from .presence import Presence
from .queueing import GatewayProducer
from .settings import GatewaySettings
from .stored_batches import BatchStore
from .stored_files import FileStore
from .visits import Visits

EXPOSED = ("x-request-id", "retry-after", "x-should-retry", "location")
"""Headers of an answer that a page elsewhere may read."""
SERVED = (
    completions,
    stored_chats,
    responses,
    files_api,
    batches_api,
    models,
    queue_paths,
    health,
    openapi,
)
"""Whose paths are in the OpenAPI document."""


def make_app(settings: GatewaySettings, producer_settings: ProducerSettings) -> Starlette:
    """A gateway as an ASGI application, for one event loop.  Raises InvalidRequest for a bad file of keys."""
    api_keys = None if settings.api_keys is None else ApiKeys.load(settings.api_keys)

    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with GatewayProducer(settings=producer_settings) as producer:
            presence, visits = Presence(producer, settings.grace_s), Visits(producer)
            metrics.watch_waiting(lambda: presence.waiting)
            files, batches = FileStore(producer, settings), BatchStore(producer, settings)
            runners = BatchRunners(producer, settings, files, batches)
            metrics.watch_batches(lambda: runners.running)
            app.state.gateway = Gateway(settings, producer, presence, visits, files, batches, runners, api_keys)
            lasting_work = {
                "genqueue-presence": presence.keep_telling,
                "genqueue-visits": visits.keep_telling,
                "genqueue-batches": runners.keep_running,
            }
            going_on = [asyncio.create_task(lasting(work, name), name=name) for name, work in lasting_work.items()]
            try:
                yield
            finally:
                await visits.aclose()
                await end(going_on)
                await presence.aclose()
                await runners.aclose()

    middleware = [Middleware(Measured, metrics), Middleware(Entrance, api_keys)]
    if settings.cors_origins:  # before the entrance: a browser asks first, and without a key
        middleware.insert(1, cors(settings.cors_origins))
    app = Starlette(
        routes=[
            *(route for each in SERVED for route in each.routes()),
            *metrics.routes(),
            *(page_files.routes() if settings.page else ()),
        ],
        middleware=middleware,
        exception_handlers={
            ApiError: _told,
            GenqueueError: _of_ours,
            HTTPException: _of_the_router,
            ClientDisconnect: _gone,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # the entrance has taken them away
    return app


def cors(origins: tuple[str, ...]) -> Middleware:
    """For pages of those origins."""
    return Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=list(EXPOSED),
    )


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _of_ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, GenqueueError)
    return error_response(api_error(error))


async def _of_the_router(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"][:200]
    said = {
        404: f"there is no {path} here{_base_url_advice(request)}",
        405: f"{request.method:.40} is not for {path}",
    }.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    if "Allow" in headers:  # which names the methods of one of the path's routes
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    code = {405: "method_not_allowed"}.get(error.status_code, "not_found")
    return error_response(ApiError(error.status_code, said, code=code, headers=headers))


def _base_url_advice(request: Request) -> str:
    """Where a client has put its own path behind another base URL than ours."""
    parts = request.scope["path"][:200].split("/")
    tails = (f"/v1/{'/'.join(parts[at:])}" for at in range(1, len(parts)))
    if not any(_routes_of(request, tail) for tail in tails):
        return ""
    return ": the base URL for a client of OpenAI's ends with /v1, and with nothing behind it"


def _routes_of(request: Request, path: str) -> list[Route]:
    scope = {**request.scope, "path": path}
    routes = (route for route in request.app.routes if isinstance(route, Route))
    return [route for route in routes if route.matches(scope)[0] is not Match.NONE]


def _methods(request: Request) -> set[str]:
    """Of all routes of a path."""
    return {method for route in _routes_of(request, request.scope["path"]) for method in route.methods or ()}


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it: nginx's word for it, for the log
