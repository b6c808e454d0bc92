"""Many jobs, each followed to its end by one producer, and when each event was seen."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from producer import AsyncProducer
from producer.contract import BrokerUnavailable, StreamedEvent

PATIENCE_S = 120.0
"""With one job."""
RETRY_S = 0.05


@dataclass
class Followed:
    """What was seen of one job, and when, by `time.monotonic()`."""

    events: list[StreamedEvent] = field(default_factory=list)
    seen_at: list[float] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether its end was seen."""
        return bool(self.events) and self.events[-1].is_terminal

    def taken_over_s(self, since: float) -> float | None:
        """From that moment until the first event of a later attempt was seen; None where there was none."""
        later = [
            at for event, at in zip(self.events, self.seen_at, strict=True) if event.id.attempt > 1 and at > since
        ]
        return later[0] - since if later else None

    def stood_still_s(self, since: float) -> float | None:
        """From that moment until the next event was seen; None where nothing was under way, or nothing came."""
        later = [at for at in self.seen_at if at > since]
        return later[0] - since if later and later != self.seen_at else None


class Followers:
    """Submits jobs and follows all of them with one AsyncProducer, through whatever comes.

    producer: may be replaced meanwhile.
    """

    def __init__(self, producer: AsyncProducer) -> None:
        self.producer = producer
        self.jobs: dict[str, Followed] = {}
        self.submitted_at: list[float] = []

    @property
    def over(self) -> int:
        """Jobs whose end was seen."""
        return sum(followed.is_over for followed in self.jobs.values())

    @property
    def under_way(self) -> int:
        """Jobs of which something was seen, and not the end."""
        return sum(bool(followed.events) and not followed.is_over for followed in self.jobs.values())

    async def run(self, requests: Mapping[str, Mapping[str, Any]], *, at_once: int) -> None:
        """Submit them, so many at a time, and follow each to its end."""
        gate = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as tasks:
            for job_id, request in requests.items():
                await gate.acquire()
                tasks.create_task(self._see_through(gate, job_id, request), name=job_id)

    async def _see_through(self, gate: asyncio.Semaphore, job_id: str, request: Mapping[str, Any]) -> None:
        followed = self.jobs[job_id] = Followed()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:  # an id of one's own makes it safe to try again after a lost answer
                await self.producer.submit(**request, model="tiny", job_id=job_id)
                break
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
        self.submitted_at.append(time.monotonic())
        cursor = None
        while not followed.is_over:
            try:
                async for event in self.producer.stream(job_id, cursor, timeout_s=PATIENCE_S):
                    followed.events.append(event)
                    followed.seen_at.append(time.monotonic())
                    cursor = event.id
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
        gate.release()
