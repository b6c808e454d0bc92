"""What a worker does beside its jobs: says that it lives, shows how far it is, and keeps house for all.

One table of side tasks, each a short step. RQ's part of a step runs in a thread.
"""

import asyncio

from rq.executions import Execution
from rq.job import Job

from producer.contract import JobExpired

from .queue.rq_worker import GenerationWorker
from .queue.sweeping import Recovery
from .registering import Registrar
from .run.runner import Runner
from .settings import WorkerSettings
from .side_tasks import SideTask

SWEEP_S = 0.5
"""One round trip when nobody has died; a dead worker's job waits for it."""
SCHEDULE_S = 1.0


class Upkeep:
    """The steps, on behalf of one worker.

    running: the job that runs and RQ's record of that, once RQ has heard of its start; else None.
    """

    def __init__(
        self, settings: WorkerSettings, worker: GenerationWorker, runner: Runner, registrar: Registrar
    ) -> None:
        self.running: tuple[Job, Execution] | None = None
        self.recovery = Recovery(worker)
        self._settings, self._worker, self._runner, self._registrar = settings, worker, runner, registrar

    def side_tasks(self) -> list[SideTask]:
        """Name, interval in s and step of each."""
        settings = self._settings
        return [
            SideTask("heartbeat", settings.heartbeat_interval_s, self.beat),
            SideTask("progress", settings.progress_interval_s, self.save_progress),
            SideTask("recovery", SWEEP_S, self.sweep),
            SideTask("expiry", settings.heartbeat_interval_s, self.expire),
            SideTask("scheduler", SCHEDULE_S, self.schedule),
            SideTask("maintenance", settings.maintenance_interval_s, self.maintain),
        ]

    async def beat(self) -> None:
        """Say that the worker lives, and the job that it runs."""
        job, execution = self.running or (None, None)
        await asyncio.to_thread(self._worker.beat, job, execution)

    async def save_progress(self) -> None:
        """Put the running job's progress into its meta."""
        if self.running and self._runner.attempt:
            progress = self._runner.attempt.progress
            await asyncio.to_thread(self._worker.save_progress, self.running[0], progress.as_dict())

    async def sweep(self) -> None:
        """Put back what the dead have left."""
        await asyncio.to_thread(self.recovery.sweep)

    async def expire(self) -> None:
        """End the jobs that have waited in a queue for longer than they may."""
        for job in await asyncio.to_thread(self.recovery.expired):
            await self._registrar.fail_unrun(job, JobExpired())
            await asyncio.to_thread(self.recovery.drop, job)

    async def schedule(self) -> None:
        """Enqueue the jobs whose time has come."""
        await asyncio.to_thread(self._worker.enqueue_scheduled)

    async def maintain(self) -> None:
        """Clean RQ's registries."""
        await asyncio.to_thread(self._worker.maintain)
