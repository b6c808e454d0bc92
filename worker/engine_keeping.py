"""A worker's engine is started, at first and after each death, and the worker's record says how it stands."""

import asyncio
import logging

from producer.broker.outage import Outage

from .engine_process.process import EngineProcess
from .leaving import cancel
from .metrics import Metrics
from .presence import Presence
from .queue.rq_worker import GenerationWorker
from .run.runner import Runner

logger = logging.getLogger(__name__)


class EngineKeeper:
    """One worker's."""

    def __init__(
        self,
        engine: EngineProcess,
        worker: GenerationWorker,
        runner: Runner,
        *,
        presence: Presence,
        metrics: Metrics,
        outage: Outage,
    ) -> None:
        self._engine, self._worker, self._runner = engine, worker, runner
        self._presence, self._metrics, self._outage = presence, metrics, outage

    async def start(self) -> None:
        """Start the engine.  Raises ConfigError where it cannot load."""
        if self._engine.died:
            logger.error("the engine has died, and is started again")
        self._worker.model_state = "loading"
        # Nobody is to count on this worker meanwhile; and its engine does not wait for Redis to hear of that.
        told = asyncio.create_task(self._show())
        try:
            info = await self._engine.start()
        finally:
            await cancel((told,))
        self._metrics.engine_starts.inc()
        self._worker.chat_template = info.chat_template
        self._worker.tool_format = info.tool_format or ""
        self._runner.engine_facts = info.facts()
        self._worker.context_length = info.context_length
        self._worker.model_state = "ready"
        await self._show()
        self._metrics.describe_engine(info)
        logger.info("%s is ready: %s", self._worker.settings.model_name, info.summary())

    async def _show(self) -> None:
        """Let the worker's record say what it is now, and not with its next beat."""
        await self._outage.wait_out(self._presence.beat, "the worker's beat")
