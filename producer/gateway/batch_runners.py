"""The batches that a gateway runs: it takes on what nobody has, and goes on with what another has left."""

import asyncio
import logging
from contextlib import suppress

from ..contract import GenqueueError
from ..ending import end
from .batch_run import BatchRun
from .queueing import GatewayProducer
from .settings import GatewaySettings
from .stored_batches import BatchStore, Lease
from .stored_files import FileStore

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks for batches that nobody has."""
LEAVE_S = 2.0
"""How long leaving them may take."""
AT_ONCE_S = 0.001
"""A lease that is over."""


class BatchRunners:
    """Those of one gateway."""

    def __init__(
        self, producer: GatewayProducer, settings: GatewaySettings, files: FileStore, batches: BatchStore
    ) -> None:
        self._producer = producer
        self._settings = settings
        self._files = files
        self._batches = batches
        self._runs: dict[asyncio.Task[None], Lease] = {}
        self._news = asyncio.Event()

    @property
    def running(self) -> int:
        """How many."""
        return len(self._runs)

    def wake(self) -> None:
        """There may be one more, or room for one more."""
        self._news.set()

    async def keep_running(self) -> None:
        """Take batches on for ever."""
        while True:
            self._news.clear()
            try:
                while len(self._runs) < self._settings.batches_at_once and (lease := await self._batches.lease()):
                    self._start(lease)
            except GenqueueError as error:  # Redis is away
                logger.debug("batches are not looked for: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()

    async def aclose(self) -> None:
        """Leave them to other gateways, at once."""
        left = dict(self._runs)
        await end(left)
        with suppress(TimeoutError, GenqueueError):
            async with asyncio.timeout(LEAVE_S):
                for lease in left.values():
                    await self._batches.mark(lease, {}, lease_s=AT_ONCE_S)

    def _start(self, lease: Lease) -> None:
        run = BatchRun(self._producer, self._settings, self._files, self._batches, lease)
        task = asyncio.create_task(run.run(), name=f"genqueue-batch-{lease.batch_id}")
        self._runs[task] = lease
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        lease = self._runs.pop(task)
        self.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("batch %s is left until its lease is over", lease.batch_id, exc_info=error)
