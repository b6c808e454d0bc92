"""The producer of a gateway: jobs with a record of the call that they answer, and leases."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, TypeVar

from ..async_client import AsyncProducer
from ..continuing import past_of
from ..contract import (
    BrokerUnavailable,
    EventId,
    GenerationRequest,
    GenerationResult,
    Keys,
    Priority,
    StreamedEvent,
)
from ..job_status import WorkerInfo
from ..ledger import rq_names
from ..ledger.limits import Limits, Reached, begin, end, stay
from ..ledger.past import Past
from ..ledger.step import Step
from ..ledger.wanting import ask_unwanted, is_unwanted, leased, want
from ..operations import Command, Operation
from ..overview import overview
from ..overview_values import ModelOverview, Overview
from ..patience import Patience
from ..settings import ProducerSettings
from ..submission import Submission, SubmitOptions, prepare
from ..subscription import Subscription
from .board import WAITING_SHOWN
from .calls import FIELD, Call
from .happening import happening
from .shared_read import SharedRead

logger = logging.getLogger(__name__)

T = TypeVar("T")

SAID_AGAIN_S = 60.0
ROSTER_AGE_S = 1.0
"""How old what is known of the workers may be, so that a thousand requests do not ask for it at once."""


class GatewayProducer(AsyncProducer):
    """An AsyncProducer that submits calls, and says for how long their jobs are wanted."""

    def __init__(self, settings: ProducerSettings) -> None:
        super().__init__(settings=settings)
        self._said = ("", 0.0)
        """Of Redis, to the log, and until when it is not said again."""
        self._overview = SharedRead(self.overview, ROSTER_AGE_S)
        self._board = SharedRead(self._read_board, ROSTER_AGE_S)

    async def submit_call(
        self,
        call: Call,
        requests: Sequence[GenerationRequest],
        *,
        priority: Priority,
        group: str | None,
        lease_s: float,
        result_ttl_s: int | None,
        max_queued: int | None,
    ) -> bool:
        """Enqueue the jobs of a call, all or none. Returns whether it is new.  Raises as `submit_many`."""
        options = {"priority": priority, "group": group, "result_ttl_s": result_ttl_s, "max_queued": max_queued}
        batch = prepare(
            requests,
            model=call.model,
            options=SubmitOptions.parse({name: value for name, value in options.items() if value is not None}),
            settings=self.settings,
            job_ids=call.job_ids,
        )
        lease = leased(lease_s) if call.is_leased else {}
        submissions = [
            _with_fields(submission, {**lease, **({} if number else call.to_field())})
            for number, submission in enumerate(batch.submissions)
        ]
        created = await self._run(self._operations.submit(replace(batch, submissions=submissions)))
        return created[0]

    @property
    def keys(self) -> Keys:
        """Names of what is on Redis."""
        return self._keys

    async def do(self, step: Step[T]) -> T:
        """One step of the ledger.  Raises BrokerUnavailable."""
        return await self._run(_step(step))

    async def ask(self, command: Command) -> Any:
        """What a command answers that changes nothing, or may be sent twice.  Raises BrokerUnavailable."""
        return await self._run(_asked(command))

    async def find_call(self, call_id: str) -> Call | None:
        """The record of a call, for as long as its first job's is kept."""
        return await self._run(_find(call_id))

    async def find_calls(self, call_ids: Sequence[str]) -> list[Call | None]:
        """The records of several, in one round trip."""

        def ask(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            for call_id in call_ids:
                pipeline.hget(rq_names.job(call_id), FIELD)
            return pipeline.execute()

        return list(map(Call.read, await self.ask(ask)))

    async def past(self, job_id: str) -> Past:
        """Request and result of a job that has ended.  Raises NoSuchJob, and InvalidRequest where it has not."""
        return await self._run(past_of(self._keys, job_id))

    async def newest(self, job_id: str) -> StreamedEvent | GenerationResult | None:
        """The newest event of a job; its result where its events are gone; None of one that nobody has taken yet.

        Raises NoSuchJob.
        """
        standing = await self._run(self._operations.standing(job_id))
        if standing.newest is None and standing.has_result:  # Redis has evicted them, say
            return await self.result(job_id, check=False)
        return standing.newest if isinstance(standing.newest, StreamedEvent) else None

    async def open_stream(self, job_id: str) -> tuple[Patience, EventId | None]:
        """Look at the job that is to be followed from its beginning. No place where nothing is to come."""
        patience = self._waits.patience(None)
        opening = self._waits.in_time(self._waits.open_stream(job_id, None, patience), job_id, patience)
        link = await self._links.get()
        return patience, await link.run(opening, patience.answer_by, job_id)

    def subscribed(
        self, job_id: str, cursor: EventId, signal: asyncio.Event
    ) -> AbstractContextManager[Subscription]:
        """A subscription to what comes after the cursor, while the block lasts.  signal: set when it comes."""
        return self._hub.following(job_id, cursor, signal=signal)

    async def next_of(self, subscription: Subscription, patience: Patience) -> StreamedEvent | None:
        """The next event, if there is one. Looks at the job if that is due.  Raises as `stream`."""
        if subscription.inbox:
            event = subscription.inbox.popleft()
        else:
            try:
                event = await self._run(self._waits.next_event(subscription, _nothing_yet, patience))
            except _NothingYetError:
                return None
        self._hub.resume(subscription)
        patience.heard(event.id)
        return event

    async def want(self, job_ids: Sequence[str]) -> None:
        """Say that somebody waits for those jobs."""
        await self._run(_step(want(job_ids)))

    async def is_unwanted(self, job_id: str) -> bool:
        """Whether nobody waits for the job any more, at any gateway."""
        return await self._run(_unwanted(job_id))

    async def begin_request(self, owner: str, limits: Limits, request_id: str, tokens: int) -> Reached | None:
        """See `ledger.limits.begin`."""
        return await self._run(_step(begin(self._keys, owner, limits, request_id, tokens=tokens)))

    async def end_request(self, owner: str, limits: Limits, request_id: str, unused: int) -> None:
        """See `ledger.limits.end`."""
        await self._run(_step(end(self._keys, owner, limits, request_id, unused=unused)))

    async def stay_open(self, owner: str, request_ids: Sequence[str]) -> None:
        """See `ledger.limits.stay`."""
        await self._run(_step(stay(self._keys, owner, request_ids)))

    async def workers_lately(self, model: str) -> tuple[WorkerInfo, ...]:
        """As `workers`, or as they were a moment ago."""
        return await self._run(self._operations.workers_lately(model, ROSTER_AGE_S))

    async def models(self) -> tuple[ModelOverview, ...]:
        """All that have workers or queues, or as they were a moment ago.  Raises BrokerUnavailable."""
        return (await self._overview.get()).models

    async def board(self) -> Overview:
        """What goes on, with the next jobs that wait, or how it was a moment ago.  Raises BrokerUnavailable."""
        return await self._board.get()

    async def happening(self, job_id: str, owner: str | None) -> dict[str, Any]:
        """See `happening.happening`."""
        return await self._run(happening(self._keys, job_id, owner))

    async def knows(self, model: str) -> bool:
        """Whether anything tells of that model. Where this user of Redis may not look, it might be there."""
        try:
            return any(each.model == model for each in await self.models())
        except BrokerUnavailable:
            return True

    async def _run(self, operation: Operation[T]) -> T:
        """Clients are not told where Redis is, and what it says: the log is."""
        try:
            return await super()._run(operation)
        except BrokerUnavailable as error:
            said, until = self._said
            if said != str(error) or time.monotonic() >= until:
                self._said = str(error), time.monotonic() + SAID_AGAIN_S
                logger.warning("%s", error)
            raise

    async def _read_board(self) -> Overview:
        return await self._run(overview(self._keys, waiting_shown=WAITING_SHOWN))


class _NothingYetError(Exception):
    """No event has come."""


async def _nothing_yet(_: Subscription, __: float) -> None:
    raise _NothingYetError


def _with_fields(submission: Submission, fields: dict[str, Any]) -> Submission:
    job = submission.new_job
    return replace(submission, new_job=replace(job, fields={**job.fields, **fields}))


def _find(call_id: str) -> Operation[Call | None]:
    return Call.read((yield lambda r: r.hget(rq_names.job(call_id), FIELD)))


def _step(step: Step[T]) -> Operation[T]:
    return step.read((yield step.send))


def _asked(command: Command) -> Operation[Any]:
    return (yield command)


def _unwanted(job_id: str) -> Operation[bool]:
    return is_unwanted((yield lambda r: ask_unwanted(r, job_id)))
