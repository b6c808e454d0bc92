"""How a producer waits for a job, step by step, without doing any I/O: operations, as those of `operations`.

A wait opens with one look at the job, then listens, and looks again where nothing has come for so long that it may
be in vain (`patience`, which says how often). Each look is a few commands, which cost Redis the same however many
jobs wait before this one.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from .broker.advice import is_transient
from .contract import (
    BEFORE_FIRST,
    EventId,
    GenerationResult,
    GenqueueError,
    NoSuchJob,
    StreamedEvent,
    UnknownEvent,
    terminal_event,
)
from .following import READ_COUNT, event_in, read_entry
from .job_status import JobStatus, state_of
from .ledger import rq_names
from .ledger.waiting import await_end
from .operations import Operation, Operations
from .patience import Patience, Stand
from .places import Standing
from .replies import positive_or_none, stored_result
from .subscription import Subscription
from .wait_ends import after_the_end, deleted, events_gone, start_one, stranded, unanswered, wait_timeout

logger = logging.getLogger(__name__)

T = TypeVar("T")
Wait = Callable[[Subscription, float], Any]
"""Returns, or is awaited, when the subscription has something or the seconds are over."""

_WAITERS_TTL_S = 86_400
"""The same for all, so that nobody shortens another's; whoever waits for longer looks for the end now and then."""
_MARGIN_S = 0.05
"""A time-out so close before the caller's own bound is that bound's."""
ROSTER_AGE_S = 1.0
"""How old the list of a model's workers may be for a look, so that a thousand waits do not ask for it at once."""
_GONE = Stand("lost")
"""Of a job of which nothing is there."""
_LINE_END = 1000
"""So many places at the end of a queue are searched for a job that is about to be waited for."""


@dataclass(frozen=True)
class Waiting:
    """A command that sends nothing: it waits for a subscription, within a bound of its own."""

    wait: Wait
    subscription: Subscription
    left_s: float

    def __call__(self, _: Any) -> Any:
        """Wait, or return what is to be awaited."""
        return self.wait(self.subscription, self.left_s)


class Waits:
    """Every operation of a wait, over those of one producer."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.keys = operations.keys
        self._unserved: set[str] = set()
        """Models that nobody served, as far as the log has been told."""

    def patience(self, timeout_s: float | None) -> Patience:
        """Of a wait that begins now.  timeout_s: the caller's bound, see `Patience`."""
        return Patience(timeout_s, self._operations.settings.wait_s)

    def open_stream(
        self, job_id: str, after: EventId | str | None, patience: Patience
    ) -> Operation[EventId | None]:
        """Where a subscriber starts. None when nothing comes after its cursor.  Raises NoSuchJob, JobStranded."""
        cursor = EventId.parse(after) if isinstance(after, str) else after or BEFORE_FIRST
        standing = yield from self._open(job_id, patience)
        newest = standing.newest
        if newest and newest.is_terminal and newest.id <= cursor:
            return None
        if standing.has_result and newest is None:
            raise events_gone(job_id)
        return cursor

    def open_result(self, job_id: str, patience: Patience) -> Operation[GenerationResult | EventId]:
        """The result, or the cursor from which to follow the stream until it is there.

        Raises NoSuchJob, JobStranded.
        """
        standing = yield from self._open(job_id, patience)
        newest = standing.newest
        if newest and newest.is_terminal:
            return _result_of(newest)
        if standing.has_result and newest is None:  # beside a stream that goes on, it is no result
            raw = yield lambda r: r.get(self.keys.result(job_id))
            if raw is not None:
                return stored_result(job_id, raw)
        return newest.id if newest else BEFORE_FIRST

    def announce(self, job_id: str, wake_key: str) -> Operation[GenerationResult | None]:
        """Have the job's end written to the wake stream, too. The result, if it has ended by now.

        To be called once the wake stream is read: no end falls between the two.  Raises NoSuchJob.
        """
        step = await_end(self.keys, job_id, wake_key, ttl_s=_WAITERS_TTL_S)
        entry = step.read((yield step.send))
        if entry == "gone":
            raise deleted(job_id)
        return _result_of(event_in(*entry, job_id=job_id)) if entry else None

    def in_time(self, operation: Operation[T], job_id: str, patience: Patience) -> Operation[T]:
        """The operation, as a part of a wait.  Raises WaitTimeout where Redis has not answered in its time."""
        try:
            return (yield from operation)
        except redis.TimeoutError as error:
            if not patience.is_unanswered(_MARGIN_S):
                raise
            raise unanswered(job_id, patience) from error

    def next_event(self, subscription: Subscription, wait: Wait, patience: Patience) -> Operation[StreamedEvent]:
        """The next event of a subscription.

        Raises WaitTimeout, which says what is known of the job; JobStranded when nobody will end it; NoSuchJob
        when it is gone.
        """
        while not subscription.inbox:
            # Asked again, because a hub on a thread may have put events and then failed since the line above: the
            # events come first.
            if subscription.error is not None and not subscription.inbox:
                raise subscription.error
            if subscription.is_announced:
                subscription.is_announced = False
                patience.look_soon()
            left_s = patience.left_s
            if left_s > 0:
                yield Waiting(wait, subscription, left_s)
                continue
            outcome = yield from self._look_again(subscription, patience)
            if subscription.inbox:
                break
            if isinstance(outcome, GenqueueError):
                raise outcome
            if outcome is not None:
                return outcome
        return subscription.inbox.popleft()

    def _open(self, job_id: str, patience: Patience) -> Operation[Standing]:
        """The first look."""
        standing = yield from self._operations.standing(job_id)
        patience.learn(self._life_s(standing), _first_stand(standing))
        if standing.has_result:
            return standing
        if (yield from self._seems_lost(job_id, standing)):
            status, standing = yield from self._operations.look(job_id)
            if status.is_stranded and status.is_over_for_rq:
                raise stranded(status)
            patience.learn(self._life_s(standing), _stand(status, standing))
        elif patience.timeout_s != 0 and (yield from self._is_served(job_id, standing)):
            patience.learn(self._life_s(standing), Stand("in line", _newest_id(standing)))
        return standing

    def _is_served(self, job_id: str, standing: Standing) -> Operation[bool]:
        """Whether a job waits behind a live worker. A worker that restarts just at the next look is forgiven then.

        Where nobody serves its model, the log says so, once: it will be wait_s before that is an error, and a
        script that says nothing until then looks as if it hung.
        """
        model = self.keys.model_of_queue(standing.fields.get("origin", ""))
        if model is None or state_of(standing.fields) != "queued":
            return False
        try:
            workers = yield from self._operations.workers_lately(model, ROSTER_AGE_S, none_is_kept=True)
        except redis.RedisError:
            return False  # the wait itself meets it, and knows what to do
        if workers:
            self._unserved.discard(model)
        elif model not in self._unserved:
            self._unserved.add(model)
            logger.warning("no live worker serves %s: %s. Job %s waits for one", model, start_one(model), job_id)
        return bool(workers)

    def _seems_lost(self, job_id: str, standing: Standing) -> Operation[bool]:
        """Whether a closer look is due before anybody waits: RQ has ended it, or it is missing in its queue.

        Of a long queue the end alone is searched: a wait must cost Redis no more for what stands before the job.
        """
        fields = standing.fields
        if state_of(fields) in {"finished", "failed", "cancelled"}:
            return True
        if fields.get("status") != "queued" or fields.get("taken_by"):
            return False
        name = rq_names.queue(fields.get("origin", ""))
        place, length = (
            yield lambda r: (
                r.pipeline(transaction=True).lpos(name, job_id, rank=-1, maxlen=_LINE_END).llen(name).execute()
            )
        )
        return place is None and int(length) <= _LINE_END

    def _look_again(
        self, subscription: Subscription, patience: Patience
    ) -> Operation[GenqueueError | StreamedEvent | None]:
        """Why there is no point in waiting on, if there is none; or the end that is waited for, if it is there.

        Raises what Redis answers in place of a job.
        """
        job_id, cursor = subscription.job_id, subscription.cursor
        try:
            status, standing = yield from self._operations.look(
                job_id, roster_age_s=ROSTER_AGE_S, line_end=_LINE_END
            )
        except NoSuchJob as error:
            # Redis may have come back empty: the worker that has the job fills it again with its next event.
            return None if not patience.confirms(_GONE) and patience.goes_on(_GONE) else error
        except redis.RedisError as error:
            if is_transient(error) and patience.goes_on(Stand("unknown")):
                return None
            if isinstance(error, redis.TimeoutError) and patience.timeout_s is not None:
                return unanswered(job_id, patience)
            raise
        if ended := (yield from self._ended_meanwhile(subscription, cursor, standing)):
            return ended
        stand = _stand(status, standing)
        is_certain = status.is_stranded and (status.is_over_for_rq or patience.confirms(stand))
        if not is_certain and (patience.goes_on(stand) or (yield from self._read_on(subscription, standing))):
            return None
        return stranded(status) if status.is_stranded else wait_timeout(status, patience)

    def _read_on(self, subscription: Subscription, standing: Standing) -> Operation[bool]:
        """Take what the look has seen and no read has brought: a wake may get lost. Whether there was anything."""
        cursor = subscription.cursor
        if subscription.only_end or standing.newest is None or standing.newest.id <= cursor:
            return False
        key = self.keys.events(subscription.job_id)
        entries = yield lambda r: r.xrange(key, min=str(cursor), count=READ_COUNT)
        subscription.put_all([read_entry(*entry) for entry in entries])
        return subscription.cursor > cursor or subscription.error is not None

    def _ended_meanwhile(
        self, subscription: Subscription, cursor: EventId, standing: Standing
    ) -> Operation[GenqueueError | StreamedEvent | None]:
        """The end where it is waited for, or why it never comes.  cursor: as it was before the look."""
        job_id, newest = subscription.job_id, standing.newest
        is_terminal = isinstance(newest, StreamedEvent) and newest.is_terminal
        if not subscription.only_end:
            if newest is None:
                return events_gone(job_id) if standing.has_result else None
            return after_the_end(job_id, cursor, newest.id) if is_terminal and newest.id <= cursor else None
        if isinstance(newest, StreamedEvent) and is_terminal:
            return newest  # whoever wrote it has not announced it, or not yet
        raw = (yield lambda r: r.get(self.keys.result(job_id))) if newest is None else None
        return StreamedEvent(cursor, terminal_event(stored_result(job_id, raw))) if raw is not None else None

    def _life_s(self, standing: Standing) -> float:
        """How long a job may live from its submission: in its queue, and with a worker."""
        fields, settings = standing.fields, self._operations.settings
        queue_ttl_s = settings.queue_ttl_s
        queued_at_ms, expires_at_ms = (
            positive_or_none(fields.get(name)) for name in ("queued_at_ms", "expires_at_ms")
        )
        if queued_at_ms and expires_at_ms and expires_at_ms > queued_at_ms:
            queue_ttl_s = (expires_at_ms - queued_at_ms) / 1000
        return queue_ttl_s + (positive_or_none(fields.get("timeout")) or settings.timeout_s)


def _first_stand(standing: Standing) -> Stand:
    """Nothing is known of the workers yet: a queue counts as not served from here on, until they are known."""
    is_running = not standing.fields or state_of(standing.fields) == "running"
    return Stand("running" if is_running else "unserved", _newest_id(standing))


def _stand(status: JobStatus, standing: Standing) -> Stand:
    newest = _newest_id(standing)
    if status.has_result:
        return Stand("ended", newest)
    if status.is_stranded:
        return Stand("lost", newest)
    if status.state == "running":
        return Stand("in line" if status.is_paused else "running", newest)
    if not status.workers:
        return Stand("unserved", newest)
    return Stand("later" if status.state in {"deferred", "scheduled"} else "in line", newest)


def _newest_id(standing: Standing) -> str:
    return str(standing.newest.id) if standing.newest else ""


def _result_of(event: StreamedEvent | UnknownEvent) -> GenerationResult:
    assert isinstance(event, StreamedEvent)
    assert isinstance(event.event.data, GenerationResult)
    return event.event.data
