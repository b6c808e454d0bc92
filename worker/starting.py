"""A worker comes into being: everything that needs Redis first, and then a Service that is whole.

the metrics' port -> Redis, for broker_wait_s at most -> RQ hears of us -> a lock on our life -> the Service
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from importlib.metadata import version

import redis

from producer.broker.advice import broker_unavailable, may_pass
from producer.broker.meaning import is_read_only, is_unknown_command, meaning
from producer.broker.outage import Outage
from producer.broker.server import MINIMUM, ServerReport, inspect_server
from producer.contract import BrokerUnavailable

from .engine_process.process import EngineProcess
from .leaving import Leaving
from .links import Links
from .lives import Lives
from .metrics import Metrics
from .queue.rq_worker import GenerationWorker
from .service import Service
from .settings import WorkerSettings

logger = logging.getLogger(__name__)

RETRY_S = 0.2


async def start(settings: WorkerSettings, engine: EngineProcess, leaving: Leaving) -> Service:
    """A Service that is registered with Redis and ready to run; its engine is not yet started.

    Raises ConfigError when its metrics' port is taken, before anybody hears of it, and BrokerUnavailable when
    Redis cannot be used within broker_wait_s, or not at all.
    """
    links = Links.to(settings.redis_url)
    _say_who(settings, links)
    metrics = Metrics()
    try:
        if settings.metrics_port is not None:
            port = metrics.serve(settings.metrics_host, settings.metrics_port)
            logger.info("metrics at http://%s:%d/metrics", settings.metrics_host, port)
        outage = Outage(patience_s=settings.broker_wait_s, drop_connections=links.drop)
        stopped = _StopCommands()
        worker = await _Registration(settings, links, outage, stopped).worker()
    except BaseException:
        metrics.close()
        await links.close()
        raise
    lives = Lives.of_this_host()
    lives.begin(worker.name)  # before it is in the ring, and so before anybody asks
    service = Service(
        settings, engine, worker, links=links, lives=lives, outage=outage, metrics=metrics, leaving=leaving
    )
    stopped.listener = service.on_stop_command
    return service


def _say_who(settings: WorkerSettings, links: Links) -> None:
    logger.info(
        "genqueue %s: a worker of %s on %s, for Redis at %s, prefix %s, process %d",
        version("genqueue"),
        settings.model_name,
        settings.device,
        links.address,
        settings.prefix,
        os.getpid(),
    )


class _StopCommands:
    """Passes RQ's stop commands on, from the moment that somebody listens. Before that, no job runs."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        self.listener()


class _Registration:
    """Registers a worker, trying for as long as the setting allows, whatever the server does meanwhile."""

    def __init__(
        self, settings: WorkerSettings, links: Links, outage: Outage, on_stop: Callable[[], None]
    ) -> None:
        self._settings, self._links, self._outage, self._on_stop = settings, links, outage, on_stop
        self._deadline = time.monotonic() + settings.broker_wait_s
        self._report = ServerReport("the server", ())
        self._met: redis.RedisError | None = None

    async def worker(self) -> GenerationWorker:
        """The worker, as RQ knows it from now on.  Raises BrokerUnavailable."""
        while True:
            try:
                worker = await self._try()
            except redis.RedisError as error:
                # A try for which no time is left would hide this error behind one of its own.
                if not self._can_help(error) or self._left_s() <= RETRY_S:
                    raise self._explained(error) from error
                self._met = error
                await self._outage.note(error, "starting", self)
                await asyncio.sleep(RETRY_S)
            else:
                self._outage.over(self)
                for warning in self._report.warnings:
                    logger.warning("%s", warning)
                return worker

    async def _try(self) -> GenerationWorker:
        # A server that says nothing takes a socket time-out for each command, of which there are many.
        try:
            async with asyncio.timeout(self._left_s()):
                return await asyncio.to_thread(self._register)
        except TimeoutError:
            if self._met is not None:
                raise self._met from None  # that says more than a try for which the time was too short
            raise redis.TimeoutError(f"no answer within {self._settings.broker_wait_s:g} s") from None

    def _register(self) -> GenerationWorker:
        worker = GenerationWorker(self._settings, self._links.rq, on_stop=self._on_stop)
        # Every job is told the version, and no job is to ask.
        worker.get_redis_server_version()  # type: ignore[no-untyped-call]
        self._report = inspect_server(self._links.rq)
        worker.bootstrap()
        return worker

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    @staticmethod
    def _can_help(error: redis.RedisError) -> bool:
        """Whether waiting can: not where the URL, or what stands at its end, must change."""
        return may_pass(error) and (meaning(error) == "outage" or is_read_only(error))

    def _explained(self, error: redis.RedisError) -> BrokerUnavailable:
        if is_unknown_command(error):
            return BrokerUnavailable(
                f"Redis at {self._links.address} ({self._report.version}) does not know a command that genqueue "
                f"needs ({error}): it takes {MINIMUM}"
            )
        return broker_unavailable(error, self._links.address)
