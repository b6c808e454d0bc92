"""How the end of a job is waited for, and nothing else of it: operations, over those of `waits`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol

import redis

from .contract import EventId, GenerationResult, GenqueueError, Keys, StreamedEvent
from .following import event_in
from .operations import Operation
from .patience import Patience
from .subscription import Signal, Subscription
from .waits import Waits


class Follows(Protocol):
    """What a wait needs of a hub of either kind."""

    def wait(self, subscription: Subscription, timeout_s: float) -> Any:
        """Return, or be awaited, when the subscription has something or the seconds are over."""

    @property
    def wake_key(self) -> str:
        """The wake stream that ends its blocked read."""

    def following(
        self, job_id: str, cursor: EventId, *, only_end: bool = False, signal: Signal | None = None
    ) -> AbstractContextManager[Subscription]:
        """A subscription for as long as the block runs."""


def end_of_job(
    waits: Waits, job_id: str, hub: Follows, patience: Patience, signal: Signal | None = None
) -> Operation[GenerationResult]:
    """How the job ends: the whole of a wait for it.  signal: as in `Hub.following`.

    Raises NoSuchJob, JobStranded, WaitTimeout.
    """
    found = yield from waits.in_time(waits.open_result(job_id, patience), job_id, patience)
    if isinstance(found, GenerationResult):
        return found
    with hub.following(job_id, found, only_end=True, signal=signal) as subscription:
        announced = waits.announce(job_id, hub.wake_key)
        if ended := (yield from waits.in_time(announced, job_id, patience)):
            return ended
        while True:
            event = yield from waits.next_event(subscription, hub.wait, patience)
            if isinstance(event.event.data, GenerationResult):
                return event.event.data


def ended_already(keys: Keys, job_ids: Sequence[str]) -> Operation[dict[str, GenerationResult]]:
    """How those have ended that have, asked in one round trip. What is odd is left to a wait of its own."""
    replies = yield partial(_ask_last, [keys.events(job_id) for job_id in job_ids])
    results: dict[str, GenerationResult] = {}
    for job_id, entries in zip(job_ids, replies, strict=True):
        if isinstance(entries, redis.RedisError):
            continue
        with suppress(GenqueueError):
            for event in (event_in(*entry) for entry in entries):
                if isinstance(event, StreamedEvent) and isinstance(event.event.data, GenerationResult):
                    results[job_id] = event.event.data
    return results


def _ask_last(streams: Sequence[str], client: Any) -> Any:
    """The last entry of each, or the error in its place."""
    pipeline = client.pipeline(transaction=False)
    for stream in streams:
        pipeline.xrevrange(stream, count=1)
    return pipeline.execute(raise_on_error=False)
