"""What the handlers of a gateway share: its producer, its settings, and who asks."""

import math
from dataclasses import dataclass

from starlette.requests import Request

from ..contract import InvalidRequest, Priority
from ..contract.keys import check_model_name
from ..contract.refusals import Names
from .api_keys import OPEN, ApiKey, ApiKeys
from .asked import priority_of
from .batch_runners import BatchRunners
from .calls import Call, Kind, call_id_in
from .errors import ApiError, not_found, refused, retry_after
from .presence import Presence
from .queueing import GatewayProducer
from .settings import GatewaySettings
from .stored_batches import BatchStore
from .stored_files import FileStore
from .visits import Visits

UNSERVED_AGAIN_S = 10.0


@dataclass(frozen=True)
class Gateway:
    """One gateway. None of its parts holds what a kill could lose."""

    settings: GatewaySettings
    producer: GatewayProducer
    presence: Presence
    visits: Visits
    files: FileStore
    batches: BatchStore
    runners: BatchRunners
    api_keys: ApiKeys | None

    @property
    def jobs_depend_on_clients(self) -> bool:
        """Whether a job ends some time after its client has gone."""
        return math.isfinite(self.settings.grace_s)

    async def check_served(self, model: str) -> int | None:
        """How many tokens fit into its context; None where no worker says.

        Raises ApiError: 404 for a model of which nothing is known, 503 for one that no worker serves now.
        """
        try:
            check_model_name(model)
        except InvalidRequest as error:
            raise refused("model", str(error), code="model_not_found") from None
        if workers := await self.producer.workers_lately(model):
            return max((each.context_length for each in workers if each.context_length), default=None)
        if await self.producer.knows(model):
            raise ApiError(
                503,
                f"no live worker serves {model}: try again once one does",
                param="model",
                code="model_not_served",
                headers=retry_after(UNSERVED_AGAIN_S),
            )
        raise await self._no_such_model(model)

    async def _no_such_model(self, model: str) -> ApiError:
        there = tuple(each.model for each in await self.producer.models() if each.workers)
        advice = Names(there).advice(model) or (f"there are {', '.join(there[:20])}" if there else "")
        message = f"there is no model {model[:80]!r} here{f': {advice}' if advice else ''}"
        return ApiError(404, message, param="model", code="model_not_found")


def gateway_of(request: Request) -> Gateway:
    """The gateway that serves a request."""
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


def key_of(request: Request) -> ApiKey | None:
    """The key that a request came with; None where there are none."""
    key = request.state.api_key
    assert isinstance(key, ApiKey | None)
    return key


def owner_of(request: Request) -> str:
    """Whose a request is, and what it makes."""
    key = key_of(request)
    return OPEN if key is None else key.name


def priority_in(request: Request, asked: Priority) -> Priority:
    """Of the jobs of a request.  asked: by its body.  Raises ApiError."""
    key = key_of(request)
    return priority_of(request.headers.get("x-priority"), asked, "high" if key is None else key.priority)


async def call_of(request: Request, kind: Kind) -> Call:
    """The call that a path names.  Raises ApiError 404, also for one of another key."""
    public_id = request.path_params["id"]
    call_id = call_id_in(public_id, kind)
    call = await gateway_of(request).producer.find_call(call_id) if call_id else None
    if call is None or call.kind != kind or call.owner != owner_of(request):
        raise not_found(f"answer {public_id}")
    return call
