"""What becomes of a call, as a response: whole, or as a stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch.openai_answers import chat_choice, completion_choice
from ..contract import GenerationResult, GenqueueError, TokenLogprob, Tokens
from .calls import Call
from .chunks import Parts, ended_well, usage_of_call
from .cursors import Cursor, Passing
from .ending import end
from .errors import ApiError, api_error
from .following import follow
from .gateway import Gateway
from .sse import HEARTBEAT, EventStream
from .waiting import while_client_waits

OBJECT = {"chat": "chat.completion", "completions": "text_completion"}
CHOICE = {"chat": chat_choice, "completions": completion_choice}


async def answer(gateway: Gateway, request: Request, call: Call) -> Response:
    """The whole answer, once it is there.  Raises ApiError and errors of the producer."""
    return JSONResponse(whole(call, await ends(gateway, request, call)))


async def ends(gateway: Gateway, request: Request, call: Call) -> list["Ended"]:
    """How each of its jobs has ended, once all have.  Raises as `answer`."""

    async def wait() -> list[Ended]:
        async with gateway.presence.of(call):
            return await _ended(gateway, call)

    return await while_client_waits(request, wait())


async def stream(gateway: Gateway, request: Request, call: Call, seen: Cursor, parts: Parts) -> Response:
    """What comes after those parts of the answer that were seen; 204 where that is nothing.

    The response begins with the first of them: a job that is refused has a status of its own.  Raises as `answer`.
    """
    body = _sent(gateway, call, seen, parts)
    first = await while_client_waits(request, _first_of(body))
    return Response(status_code=204) if first is None else EventStream(first, body)


def whole(call: Call, ended: list["Ended"]) -> dict[str, object]:
    """An answer that is complete."""
    choice = CHOICE[call.kind]
    body: dict[str, object] = {
        "id": call.public_id,
        "object": OBJECT[call.kind],
        "created": call.created,
        "model": call.model,
        "choices": [choice(number, *each) for number, each in enumerate(ended)],
        "usage": usage_of_call(call, [result for result, _ in ended]),
        "system_fingerprint": None,
    }
    for name in ("service_tier", "metadata"):
        if (value := getattr(call, name)) is not None:
            body[name] = value
    return body


Ended = tuple[GenerationResult, list[TokenLogprob] | None]
"""How a job ended, and the log-probabilities of its tokens where they were asked for."""


async def _ended(gateway: Gateway, call: Call) -> list[Ended]:
    """How each job ended, all of them well.  Raises ApiError and errors of the producer."""
    waits = [asyncio.ensure_future(_end_of(gateway, call, job_id)) for job_id in call.job_ids]
    try:
        return await asyncio.gather(*waits)
    finally:
        await end(waits)


async def _end_of(gateway: Gateway, call: Call, job_id: str) -> Ended:
    if not call.logprobs:
        return ended_well(await gateway.producer.result(job_id, check=False)), None
    return await read_with_logprobs(gateway, job_id)


async def read_with_logprobs(gateway: Gateway, job_id: str) -> Ended:
    """A result does not have them: they are read of the job's events."""
    logprobs: list[TokenLogprob] = []
    async with aclosing(gateway.producer.stream(job_id)) as events:
        async for streamed in events:
            data = streamed.event.data
            if isinstance(streamed.event, Tokens):
                logprobs += streamed.event.data.logprobs or ()
    assert isinstance(data, GenerationResult)
    return ended_well(data), logprobs


async def _first_of(body: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(body, None)


async def _sent(gateway: Gateway, call: Call, seen: Cursor, parts: Parts) -> AsyncGenerator[bytes, None]:
    """The events of the response.  Raises ApiError before the first of them, and sends it after."""
    has_begun = False
    try:
        async with gateway.presence.of(call), aclosing(_unseen(gateway, call, seen, parts)) as pieces:
            async for piece in pieces:
                has_begun = True
                yield piece
            return
    except GenqueueError as error:
        told = api_error(error)
    except ApiError as error:
        told = error
    if not has_begun:
        raise told
    yield parts.told(told)


async def _unseen(gateway: Gateway, call: Call, seen: Cursor, parts: Parts) -> AsyncGenerator[bytes, None]:
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
    async with aclosing(follow(gateway.producer, call.job_ids, gateway.settings.heartbeat_s)) as events:
        async for each in events:
            number, made = (0, []) if each is None else (each[0], list(parts.of(*each)))
            for piece in (*head, *encoded(number, made)):  # what is refused has no head
                yield piece
            if each is None:
                yield HEARTBEAT
    for piece in encoded(-1, parts.tail()):
        yield piece
