"""Server-sent events, as a client reads them."""

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx2


class Event(NamedTuple):
    """One of them."""

    id: str | None
    data: Any
    name: str | None = None


async def read_events(response: httpx2.Response) -> AsyncIterator[Event]:
    """Those of a response, without its comments."""
    event_id, data, name = None, None, None
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            event_id = value
        elif field == "event":
            name = value
        elif field == "data":
            data = value if value == "[DONE]" else json.loads(value)
        elif not line and data is not None:
            yield Event(event_id, data, name)
            event_id, data, name = None, None, None


async def all_events(response: httpx2.Response) -> list[Event]:
    """To the end."""
    assert response.status_code == 200, await response.aread()
    return [event async for event in read_events(response)]


def text_of(events: list[Event], choice: int = 0) -> str:
    """Of the chunks of a chat or a completion."""
    return "".join(
        each.get("delta", {}).get("content") or each.get("text") or ""
        for event in events
        if isinstance(event.data, dict)
        for each in event.data["choices"]
        if each["index"] == choice
    )
