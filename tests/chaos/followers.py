"""Many jobs, each followed to its end by one producer, and when each event was seen."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from producer.contract import Started, StreamedEvent

RETRY_S = 0.05


@dataclass
class Followed:
    """What was seen of one job, and when, by `time.monotonic()`."""

    events: list[StreamedEvent] = field(default_factory=list)
    seen_at: list[float] = field(default_factory=list)
    submitted_at: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether its end was seen."""
        return bool(self.events) and self.events[-1].is_terminal

    def next_after(self, moment: float) -> float | None:
        """When the first event after that moment was seen."""
        return next((at for at in self.seen_at if at > moment), None)

    def worker_at(self, moment: float) -> str | None:
        """The worker whose events were seen last before that moment."""
        started = [
            event.event.data.worker
            for event, at in zip(self.events, self.seen_at, strict=True)
            if at <= moment and isinstance(event.event.data, Started)
        ]
        return started[-1] if started else None


class Followers:
    """Submits jobs and follows all of them, through whatever comes.

    url: may be changed; calls that follow are made there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.jobs: dict[str, Followed] = {}

    async def submit_and_follow(self, requests: Mapping[str, Mapping[str, Any]], *, pace_s: float) -> None:
        """Submit them one after another. Returns once the end of each was seen."""
        async with asyncio.TaskGroup() as tasks:
            for job_id, request in requests.items():
                self.jobs[job_id] = Followed()
                await self._submit(job_id, request)
                tasks.create_task(self._follow(job_id), name=job_id)
                await asyncio.sleep(pace_s)
