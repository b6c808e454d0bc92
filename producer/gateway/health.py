"""`/health`: the process answers. `/ready`: Redis does, too, and some worker serves a model."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .errors import ApiError, retry_after
from .gateway import UNSERVED_AGAIN_S, gateway_of


def routes() -> list[Route]:
    """Of this file."""
    return [Route("/health", health), Route("/ready", ready)]


async def health(_: Request) -> Response:
    """Always well."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """503 with the reason, where a request would be refused."""
    models = await gateway_of(request).producer.models()
    served = [each.model for each in models if any(worker.model_state != "loading" for worker in each.workers)]
    if not served:
        again = retry_after(UNSERVED_AGAIN_S)
        raise ApiError(503, "no worker serves a model", code="model_not_served", headers=again)
    return JSONResponse({"status": "ready", "models": served})
