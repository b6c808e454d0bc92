"""What becomes of a call, as a response to one request: whole, or as a stream of events."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..contract import GenerationResult, GenqueueError, TokenLogprob, Tokens
from ..ending import end
from .calls import Call
from .chunks import Parts, ended_well
from .cursors import Cursor, Passing
from .errors import ApiError, api_error, unforeseen
from .following import Numbered, follow
from .gateway import Gateway
from .sse import HEARTBEAT, EventStream
from .visits import Visit
from .waiting import while_client_waits

logger = logging.getLogger(__name__)

Ended = tuple[GenerationResult, list[TokenLogprob] | None]
"""How a job ended, and the log-probabilities of its tokens where they were asked for."""
Pieces = AsyncGenerator[bytes, None]


@dataclass(frozen=True)
class Answering:
    """A call that a request is answered with."""

    gateway: Gateway
    request: Request
    call: Call
    visit: Visit

    async def ends(self) -> list[Ended]:
        """How each of its jobs has ended, once all have.  Raises ApiError and errors of the producer."""

        async def wait() -> list[Ended]:
            async with self.gateway.presence.of(self.call):
                return await self._ends()

        return await while_client_waits(self.request, wait())

    async def stream(self, seen: Cursor, parts: Parts) -> Response:
        """What comes after those parts of the answer that were seen; 204 where that is nothing.

        The response begins with the first of them: a job that is refused has a status of its own.  Raises as
        `ends`.
        """
        pieces = self._sent(seen, parts)
        first = await while_client_waits(self.request, _first_of(pieces))
        if first is None:
            return Response(status_code=204)
        return EventStream(first, pieces, self.visit.hand_over().aclose)

    async def _ends(self) -> list[Ended]:
        waits = [asyncio.ensure_future(self._end_of(*each)) for each in enumerate(self.call.job_ids)]
        try:
            return await asyncio.gather(*waits)
        finally:
            await end(waits)

    async def _end_of(self, number: int, job_id: str) -> Ended:
        if self.call.logprobs:
            result, logprobs = await read_with_logprobs(self.gateway, job_id)
        else:
            result, logprobs = await self.gateway.producer.result(job_id, check=False), None
        self.visit.use(number, result)
        return ended_well(result, self.call.kind), logprobs

    async def _sent(self, seen: Cursor, parts: Parts) -> Pieces:
        """The events of the response.  Raises ApiError before the first of them, and sends it after."""
        has_begun = False
        try:
            async with self.gateway.presence.of(self.call), aclosing(self._unseen(seen, parts)) as pieces:
                async for piece in pieces:
                    has_begun = True
                    yield piece
                return
        except GenqueueError as error:
            told = api_error(error)
        except ApiError as error:
            told = error
        except Exception:
            if not has_begun:
                raise
            logger.exception("the stream of %s failed", self.call.public_id)
            told = unforeseen()
        if not has_begun:
            raise told
        yield parts.told(told)

    async def _unseen(self, seen: Cursor, parts: Parts) -> Pieces:
        """The parts that the client has not seen, and comments in between.  Raises as `follow` and `parts`."""
        passing = Passing(seen)

        def encoded(lane: int, made: Iterable[Any]) -> Iterator[bytes]:
            for part in made:
                if (event_id := passing.next(lane)) is not None:
                    yield parts.encode(part, event_id)

        head = encoded(0, parts.head())
        if parts.is_eager:
            for piece in head:
                yield piece
        silence_s = self.gateway.settings.heartbeat_s
        async with aclosing(follow(self.gateway.producer, self.call.job_ids, silence_s)) as events:
            async for each in events:
                made = list(self._made(each, parts))  # before the head: what is refused has none
                for piece in (*head, *encoded(each[0] if each else 0, made)):
                    yield piece
                if each is None:
                    yield HEARTBEAT
        for piece in encoded(-1, parts.tail()):
            yield piece

    def _made(self, each: Numbered | None, parts: Parts) -> Iterable[Any]:
        if each is None:
            return ()
        number, streamed = each
        if isinstance(result := streamed.event.data, GenerationResult):
            self.visit.use(number, result)
        return parts.of(number, streamed)


async def read_with_logprobs(gateway: Gateway, job_id: str) -> Ended:
    """How a job ended. A result does not have its log-probabilities: they are read of the job's events."""
    logprobs: list[TokenLogprob] = []
    async with aclosing(gateway.producer.stream(job_id)) as events:
        async for streamed in events:
            data = streamed.event.data
            if isinstance(streamed.event, Tokens):
                logprobs += streamed.event.data.logprobs or ()
    assert isinstance(data, GenerationResult)
    return data, logprobs


async def _first_of(pieces: Pieces) -> bytes | None:
    return await anext(pieces, None)
