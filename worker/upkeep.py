"""What a worker does beside its jobs: says that it lives, shows how far it is, and keeps house for all.

One table of side tasks, each a short step. RQ's part of a step runs in a thread.
"""

import asyncio
from typing import Any

from producer.contract import JobExpired

from .housekeeping import Housekeeping
from .links import Links
from .presence import Presence, Watch
from .queue.commands import Commands
from .queue.rq_types import Job
from .queue.rq_worker import GenerationWorker
from .registering import Registrar
from .run.runner import Runner
from .settings import WorkerSettings
from .side_tasks import SideTask


class Upkeep:
    """The steps, on behalf of one worker.

    running: the jobs that run or are parked, by id, once RQ has heard of their starts.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        worker: GenerationWorker,
        runner: Runner,
        registrar: Registrar,
        *,
        presence: Presence,
        links: Links,
    ) -> None:
        self.running: dict[str, Job] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._settings, self._worker, self._runner, self._registrar = settings, worker, runner, registrar
        self._housekeeping = Housekeeping(worker, presence, links.events, self.end_late)
        self._watch = Watch(
            presence,
            beat_interval_s=settings.heartbeat_interval_s,
            on_beat=self._housekeeping.note_beat,
            on_dead=self._housekeeping.note_dead,
        )
        self._commands = Commands(links.commands, worker)
        self._presence = presence

    def side_tasks(self) -> list[SideTask]:
        """Name, interval in s and step of each."""
        settings = self._settings
        return [
            SideTask("presence", 0, self._watch.step, blocks=True),
            SideTask("housekeeping", 0, self._housekeeping.step, blocks=True),
            SideTask("commands", 0, self._commands.step, blocks=True),
            SideTask("progress", settings.progress_interval_s, self.save_progress),
            SideTask("maintenance", settings.maintenance_interval_s, self.maintain),
        ]

    async def save_progress(self) -> None:
        """Put the running job's progress into its meta; and that of a parked one, once."""
        self._saved = {job_id: saved for job_id, saved in self._saved.items() if job_id in self.running}
        for job_id, job in list(self.running.items()):
            attempt = self._runner.attempts.get(job_id)
            if attempt is None or (attempt.is_parked and self._saved.get(job_id) == attempt.progress.as_dict()):
                continue
            progress = attempt.progress.as_dict()
            await asyncio.to_thread(self._worker.save_progress, job, progress)
            self._saved[job_id] = progress

    async def end_late(self, job: Job | str) -> None:
        """End a job that has waited for longer than it may; the bare id of one that cannot be read."""
        if isinstance(job, str):
            await self._registrar.refuse(job, JobExpired())
            await self._registrar.call(self._worker.put_down, job)
        else:
            await self._registrar.fail_unrun(job, JobExpired())
            await self._registrar.call(self._worker.put_down, job.id)

    async def maintain(self) -> None:
        """Clean RQ's registries, one worker for all; and what those have left that died on this host."""
        self._presence.tidy()
        if self._housekeeping.is_ours:
            await asyncio.to_thread(self._worker.maintain)
