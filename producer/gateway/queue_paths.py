"""`/v1/queue`: what the workers do, and what waits; `/v1/queue/{id}`: what has happened to one job."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .board import board_of
from .gateway import gateway_of, owner_of

NOW = {"cache-control": "no-store"}


def routes() -> list[Route]:
    """Of this file."""
    return [Route("/v1/queue", show_queue), Route("/v1/queue/{id}", show_job)]


async def show_queue(request: Request) -> Response:
    """All of it; of jobs of other owners their number alone."""
    return JSONResponse(board_of(await gateway_of(request).producer.board(), _whose(request)), headers=NOW)


async def show_job(request: Request) -> Response:
    """One job, which is 404 where it is another owner's."""
    producer = gateway_of(request).producer
    return JSONResponse(await producer.happening(request.path_params["id"], _whose(request)), headers=NOW)


def _whose(request: Request) -> str | None:
    """Whose jobs are shown. Where there are no keys, everybody's."""
    return owner_of(request) if gateway_of(request).api_keys else None
