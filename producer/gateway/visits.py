"""Requests of an owner while they are open, and what they take of the owner's limits. All of it is on Redis.

What a request may take is counted before it takes it: prompt and longest answer, as far as the model's context
holds them. What it has not taken is given back at its end. So a gateway that is killed lets nobody have more than
his limits, and what it could not give back fills up with the minutes, as all that was taken.
"""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from ..contract import DEFAULT_MAX_NEW_TOKENS, GenerationRequest, GenerationResult, GenqueueError
from ..contract.requests import MAX_PROMPT_TOKENS
from ..ledger.limits import OPEN_MS, Limits, Reached
from .api_keys import ApiKey
from .errors import ApiError, retry_after
from .queueing import GatewayProducer

TOLD_PER_OPEN = 3
AGAIN_S = 2.0
"""When to come again where nobody can tell when there is room."""
LEAVE_S = 2.0
"""How long the last of them may take to end, where the gateway ends."""
CHARS_PER_TOKEN = 4
"""Of a prompt, about. Its tokens are known once a worker has it."""
_SAID = {
    "requests": "so many requests a minute are let in with this key",
    "tokens": "so many tokens a minute are let in with this key, prompts and longest answers",
    "open": "so many requests at once are let in with this key",
}


class Visit:
    """One request, from its being let in to its end. Whoever takes it over closes it.

    async with visit: ...
    """

    def __init__(self, visits: "Visits", key: ApiKey | None, costs: Sequence[int]) -> None:
        self.id = uuid.uuid4().hex
        self.key = key
        self._visits = visits
        self._costs = costs
        """Of each job, at most."""
        self._unused = sum(costs)
        self._is_handed_over = False

    def submitted(self) -> None:
        """Its jobs are made. What they do not take is known once they have ended."""
        self._unused = 0

    def use(self, number: int, result: GenerationResult) -> None:
        """What one of its jobs has taken."""
        if number < len(self._costs):  # of a call that was made before, nothing counts
            used = result.usage.prompt_tokens + result.usage.completion_tokens
            self._unused += max(0, self._costs[number] - used)

    def hand_over(self) -> Self:
        """The block that it was opened in does not close it."""
        self._is_handed_over = True
        return self

    async def aclose(self) -> None:
        """It is over."""
        await self._visits.end(self, self._unused)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_handed_over:
            await self.aclose()


class Visits:
    """Those of one gateway."""

    def __init__(self, producer: GatewayProducer) -> None:
        self._producer = producer
        self._open: dict[str, set[str]] = {}
        """Ids by owner, of keys with any limit."""
        self._limited = 0
        """Those that are open of keys with any limit."""
        self._none_is_open = asyncio.Event()
        self._none_is_open.set()

    async def begin(
        self, key: ApiKey | None, requests: Sequence[GenerationRequest] = (), context: int | None = None
    ) -> Visit:
        """Let a request in that submits these jobs.  context: tokens of the model's, if known.

        Raises ApiError 429.
        """
        most = context or MAX_PROMPT_TOKENS  # whatever is asked for, no job takes more
        visit = Visit(self, key, costs := [min(tokens_of(each), most) for each in requests])
        if key is None or key.limits.are_none:
            return visit
        reached = await self._producer.begin_request(key.name, key.limits, visit.id, sum(costs))
        if reached is not None:
            raise _refused(reached, key.limits)
        self._limited += 1
        self._none_is_open.clear()
        self._open.setdefault(key.name, set()).add(visit.id)
        return visit

    async def end(self, visit: Visit, unused: int) -> None:
        """It is over."""
        key = visit.key
        if key is None or key.limits.are_none:
            return
        self._open.get(key.name, set()).discard(visit.id)
        try:
            with suppress(GenqueueError):  # then it is over in a while by itself
                await self._producer.end_request(key.name, key.limits, visit.id, unused)
        finally:
            self._limited -= 1
            if not self._limited:
                self._none_is_open.set()

    async def aclose(self) -> None:
        """Have those that are open say that they are over, once all requests are cancelled. Else they count on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._none_is_open.wait()

    async def keep_telling(self) -> None:
        """Say for ever that they are open still."""
        while True:
            await asyncio.sleep(OPEN_MS / 1000 / TOLD_PER_OPEN)
            for owner, ids in list(self._open.items()):
                if not ids:
                    del self._open[owner]
                    continue
                with suppress(GenqueueError):
                    await self._producer.stay_open(owner, list(ids))


def tokens_of(request: GenerationRequest) -> int:
    """What a job may take, about."""
    prompt = len(request.prompt or "") + sum(len(turn.content or "") for turn in request.messages or ())
    ids = len(request.prompt_token_ids or ()) + len(request.output_token_ids or ())
    return prompt // CHARS_PER_TOKEN + ids + (request.max_new_tokens or DEFAULT_MAX_NEW_TOKENS)


def _refused(reached: Reached, limits: Limits) -> ApiError:
    most = {"requests": limits.requests, "tokens": limits.tokens, "open": limits.at_once}[reached.limit]
    said = _SAID[reached.limit].replace("so many", str(most), 1)
    wait_s = AGAIN_S if reached.wait_s is None else reached.wait_s
    return ApiError(429, f"{said}: come again", code="rate_limit_exceeded", headers=retry_after(wait_s))
