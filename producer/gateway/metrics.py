"""`/metrics`, for Prometheus: what was asked of this process and how it was answered. What the queue does is the
workers' to tell.
"""

import time
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""A client may send any word for one, and each would be a series for ever."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Those of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "genqueue_gateway_requests",
            "Requests, by what they were answered.",
            ["method", "path", "status"],
            registry=registry,
        )
        self._begun = Histogram(
            "genqueue_gateway_response_start_seconds",
            "From a request to the beginning of its response.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self._bytes = Counter("genqueue_gateway_sent_bytes", "Of response bodies.", registry=registry)
        self._open = Gauge("genqueue_gateway_open_requests", "Requests that are open.", registry=registry)
        self._waiting = Gauge(
            "genqueue_gateway_waiting_jobs",
            "Jobs that clients wait for, and that end once nobody does.",
            registry=registry,
        )

        self._batches = Gauge(
            "genqueue_gateway_running_batches", "Batches that this gateway runs.", registry=registry
        )

    def watch_batches(self, count: Callable[[], int]) -> None:
        """Ask there how many batches run."""
        self._batches.set_function(count)

    def watch_waiting(self, count: Callable[[], int]) -> None:
        """Ask there how many jobs clients wait for."""
        self._waiting.set_function(count)

    def routes(self) -> list[Route]:
        """Of this file."""
        return [Route("/metrics", self._show)]

    async def _show(self, _: Request) -> Response:
        return Response(generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    def began(self, scope: Scope, status: int, seconds: float) -> None:
        """A response begins."""
        path = _path_of(scope)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._requests.labels(method, path, str(status)).inc()
        self._begun.labels(path).observe(seconds)

    def sent(self, count: int) -> None:
        """So many bytes of a body."""
        self._bytes.inc(count)

    def track_open(self) -> Gauge:
        """Of requests."""
        return self._open


class Measured:
    """Pure ASGI, outside of all else."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.began(scope, message["status"], time.perf_counter() - began)
            elif message["type"] == "http.response.body":
                self._metrics.sent(len(message.get("body", b"")))
            await send(message)

        with self._metrics.track_open().track_inprogress():
            await self._app(scope, receive, counted)


def _path_of(scope: Scope) -> str:
    """As the router has it, so that ids make no series of their own."""
    found = (route for route in scope["app"].routes if isinstance(route, Route))
    return next((route.path for route in found if route.endpoint == scope.get("endpoint")), OTHER)
