"""A gateway in a thread of this process, which can be killed and put back at its port."""

import asyncio
import socket
import threading
import time
from typing import Any, Self

import uvicorn

from producer.gateway.app import make_app
from producer.gateway.serving import server_config
from producer.gateway.settings import GatewaySettings
from producer.settings import ProducerSettings

LONG_S = 60


class GatewayThread:
    """One gateway at one port.  settings: of `GatewaySettings`."""

    def __init__(self, **settings: Any) -> None:
        self.port = 0
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Of its page."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Listen, at the same port as before."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        settings = GatewaySettings(**self._settings)
        server = uvicorn.Server(server_config(make_app(settings, ProducerSettings.load()), settings))
        self._server, self._thread = (
            server,
            threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True),
        )
        self._thread.start()
        deadline = time.monotonic() + LONG_S
        while not server.started:
            assert self._thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill(self) -> None:
        """End it at once, and cut what it sends."""
        assert self._server is not None
        self._server.force_exit = True
        self.stop()

    def stop(self) -> None:
        """End it."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join(LONG_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
