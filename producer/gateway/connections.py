"""uvicorn's connections, with a bound on how long a client may take for the head of a request.

uvicorn (0.54) bounds the pause between two requests, and not a head that comes byte by byte: connections that
are held open so cost a client nothing.
"""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedProtocol(H11Protocol):
    """head_s: how long a head may take, from the connection or from its first byte."""

    def __init__(self, *arguments: Any, head_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_s = head_s
        self._giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head is to come."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """A part of a head, or of what follows."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is to come any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: a server may pass an upgrade over. uvicorn's advice is to install what serves WebSockets."""

    def _await_head(self) -> None:
        if self._giving_up is None:
            self._giving_up = self.loop.call_later(self._head_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None


def bounded_by(head_s: float) -> Any:
    """For uvicorn's `http`, which makes a protocol of each connection."""
    return partial(BoundedProtocol, head_s=head_s)
