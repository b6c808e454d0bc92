"""`/v1/models`: what workers serve now, with what fits into its context and how far its workers are."""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..overview_values import ModelOverview
from .errors import ApiError
from .gateway import gateway_of

_BEGAN = int(time.time())
"""OpenAI's `created` of a model: nobody knows it here, and clients want a number."""


def routes() -> list[Route]:
    """Of this file."""
    return [Route("/v1/models", list_models), Route("/v1/models/{id}", retrieve_model)]


async def list_models(request: Request) -> Response:
    """All that have a worker."""
    served = [each for each in await gateway_of(request).producer.models() if each.workers]
    return JSONResponse({"object": "list", "data": [described(each) for each in served]})


async def retrieve_model(request: Request) -> Response:
    """One of them."""
    name = request.path_params["id"]
    for each in await gateway_of(request).producer.models():
        if each.model == name and each.workers:
            return JSONResponse(described(each))
    raise ApiError(404, f"no worker serves a model {name[:80]!r}", param="model", code="model_not_found")


def described(model: ModelOverview) -> dict[str, object]:
    """OpenAI's model object; `max_model_len` is vLLM's name, the rest is ours."""
    lengths = [each.context_length for each in model.workers if each.context_length]
    states = {each.model_state for each in model.workers}
    templates = {each.chat_template for each in model.workers} - {None}
    return {
        "id": model.model,
        "object": "model",
        "created": _BEGAN,
        "owned_by": "genqueue",
        "max_model_len": min(lengths, default=None),
        "state": "loading" if states == {"loading"} else "ready",
        "chat_template": any(templates) if templates else None,
        "workers": len(model.workers),
        "queued": model.queued,
        "running": len(model.running),
    }
