"""The events of all jobs of a call, from their beginning, as they come; over the producer's one blocked read.

One task and one signal do for all of them, and nothing is made anew for an event: there are thousands a second.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ..contract import StreamedEvent
from ..patience import Patience
from ..subscription import Subscription
from .queueing import GatewayProducer

Numbered = tuple[int, StreamedEvent]
"""Which of the answers, and an event of it."""


@dataclass(frozen=True, slots=True)
class Followed:
    """One of the jobs."""

    number: int
    subscription: Subscription
    patience: Patience

    @property
    def is_due(self) -> bool:
        """Whether something has come, or the job is to be looked at."""
        return self.subscription.has_news or self.patience.left_s <= 0


class Alarm:
    """A signal, and a time at which it is set all the same. A time that is put off is heard of once, too early."""

    def __init__(self) -> None:
        self.signal = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, seconds: float) -> None:
        """Until the signal is set, and about so long at most."""
        by = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > by:
            self.cancel()
            self._timer = self._loop.call_at(by, self._ring)
        await self.signal.wait()

    def cancel(self) -> None:
        """Forget the time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self.signal.set()


async def follow(
    producer: GatewayProducer, job_ids: Sequence[str], silence_s: float
) -> AsyncGenerator[Numbered | None, None]:
    """Every event of each, until all have ended. None after a silence, as often as one lasts for so long.

    To be left early inside `aclosing`.  Raises as `Producer.stream`.
    """
    alarm = Alarm()
    with ExitStack() as stack:
        stack.callback(alarm.cancel)
        opened = await asyncio.gather(*map(producer.open_stream, job_ids))
        followed = [
            Followed(number, stack.enter_context(producer.subscribed(job_id, cursor, alarm.signal)), patience)
            for number, (job_id, (patience, cursor)) in enumerate(zip(job_ids, opened, strict=True))
            if cursor is not None
        ]
        loop = asyncio.get_running_loop()
        silent_at = loop.time() + silence_s
        while followed:
            alarm.signal.clear()
            has_come = False
            for each in [each for each in followed if each.is_due]:
                event = await producer.next_of(each.subscription, each.patience)
                if event is None:
                    continue
                has_come = True
                if event.is_terminal:
                    followed.remove(each)
                yield each.number, event
            if has_come:
                silent_at = loop.time() + silence_s
            elif (left_s := silent_at - loop.time()) <= 0:
                silent_at = loop.time() + silence_s
                yield None
            else:
                await alarm.wait(min(left_s, *(max(0.0, each.patience.left_s) for each in followed)))
