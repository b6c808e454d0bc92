"""What a producer asks of jobs that are there, and does to them: each is one of the operations, and no more."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TypeVar

from .base import BaseProducer
from .cancelling import Cancelled, cancel_all, cancel_many
from .deletion import deletion
from .job_status import JobStatus, WorkerInfo
from .operations import CancelOutcome, Operation
from .overview import overview
from .overview_values import Overview

T = TypeVar("T")


class Controls(BaseProducer, ABC):
    """The part of `Producer` that cancels, deletes, and tells how things stand."""

    @abstractmethod
    def _run(self, operation: Operation[T]) -> T: ...

    def cancel(self, job_id: str) -> CancelOutcome:
        """End a job early; it keeps the text it has. Harmless to repeat.

        Returns "cancelled": it waited and has ended now; "requested": its worker will end it; "ended": it had
        ended before.  Raises NoSuchJob.
        """
        return self._run(self._operations.cancel(job_id))

    def cancel_many(self, job_ids: Iterable[str]) -> dict[str, Cancelled]:
        """Cancel them all, in a few round trips. What became of each: as `cancel`, or "no_such_job"."""
        return self._run(cancel_many(self._operations, job_ids))

    def cancel_all(self, model: str | None = None, *, queued_only: bool = False) -> dict[Cancelled, int]:
        """Cancel all that wait or run now, of all models or of one. How many of each outcome."""
        return self._run(cancel_all(self._operations, model, queued_only=queued_only))

    def delete(self, job_id: str) -> None:
        """Take the job away, with all that Redis has of it: request, events, result, RQ's records.

        One that has not ended is cancelled first. A worker that has it is given half a minute to end it.
        Raises NoSuchJob; WaitTimeout where the worker does not let go of it, and nothing was deleted.
        """
        self._run(deletion(self._operations, job_id))

    def status(self, job_id: str) -> JobStatus:
        """What is known of the job: place in line, worker, progress.  Raises NoSuchJob."""
        return self._run(self._operations.status(job_id))

    def workers(self, model: str) -> tuple[WorkerInfo, ...]:
        """The live workers that serve a model, and whether each has loaded it."""
        return self._run(self._operations.workers(model))

    def overview(self, model: str | None = None) -> Overview:
        """Workers, and jobs that wait, run and have ended: of all models or of one. A few commands of Redis."""
        return self._run(overview(self._keys, model))


class AsyncControls(BaseProducer, ABC):
    """As `Controls`, for asyncio."""

    @abstractmethod
    async def _run(self, operation: Operation[T]) -> T: ...

    async def cancel(self, job_id: str) -> CancelOutcome:
        """See `Producer.cancel`."""
        return await self._run(self._operations.cancel(job_id))

    async def cancel_many(self, job_ids: Iterable[str]) -> dict[str, Cancelled]:
        """See `Producer.cancel_many`."""
        return await self._run(cancel_many(self._operations, job_ids))

    async def cancel_all(self, model: str | None = None, *, queued_only: bool = False) -> dict[Cancelled, int]:
        """See `Producer.cancel_all`."""
        return await self._run(cancel_all(self._operations, model, queued_only=queued_only))

    async def delete(self, job_id: str) -> None:
        """See `Producer.delete`."""
        await self._run(deletion(self._operations, job_id))

    async def status(self, job_id: str) -> JobStatus:
        """See `Producer.status`."""
        return await self._run(self._operations.status(job_id))

    async def workers(self, model: str) -> tuple[WorkerInfo, ...]:
        """See `Producer.workers`."""
        return await self._run(self._operations.workers(model))

    async def overview(self, model: str | None = None) -> Overview:
        """See `Producer.overview`."""
        return await self._run(overview(self._keys, model))
