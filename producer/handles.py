"""The handle of a submitted job: what `submit` gives, and what `as_completed` and `gather` take.

A handle does nothing itself. It holds the job's id, and asks the producer that submitted it.
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from typing import Protocol, Unpack

from .continuing import ContinueOptions
from .contract import Delta, EventId, GenerationResult, Message, StreamedEvent
from .contract.views.stream_view import StreamView
from .job_status import JobStatus
from .operations import CancelOutcome
from .race import Seat
from .replies import text_in


class ProducerOfHandles(Protocol):
    """What a handle asks of its producer: `client.Producer`, which imports this module."""

    def stream(
        self, job_id: str, after: EventId | str | None = None, timeout_s: float | None = None
    ) -> Generator[StreamedEvent, None, None]: ...
    def result(self, job_id: str, timeout_s: float | None = None, *, check: bool = True) -> GenerationResult: ...
    def cancel(self, job_id: str) -> CancelOutcome: ...
    def continue_job(
        self, job_id: str, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]
    ) -> "JobHandle": ...
    def delete(self, job_id: str) -> None: ...
    def status(self, job_id: str) -> JobStatus: ...
    def _seat(self) -> Seat: ...


class AsyncProducerOfHandles(Protocol):
    """As `ProducerOfHandles`, of `async_client.AsyncProducer`."""

    def stream(
        self, job_id: str, after: EventId | str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[StreamedEvent, None]: ...
    async def result(
        self, job_id: str, timeout_s: float | None = None, *, check: bool = True
    ) -> GenerationResult: ...
    async def cancel(self, job_id: str) -> CancelOutcome: ...
    async def continue_job(
        self, job_id: str, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]
    ) -> "AsyncJobHandle": ...
    async def delete(self, job_id: str) -> None: ...
    async def status(self, job_id: str) -> JobStatus: ...
    async def _seat(self) -> Seat: ...


@dataclass(frozen=True)
class JobHandle:
    """A submitted job, bound to the producer that submitted it."""

    job_id: str
    model: str
    created: bool
    """False when a job of that id existed already: nothing was enqueued, this is that job."""
    _producer: ProducerOfHandles = field(repr=False, compare=False)
    _ended: list[GenerationResult] = field(default_factory=list, init=False, repr=False, compare=False)
    """How it ended, where `as_completed` has said that it has."""

    def stream(
        self, after: EventId | str | None = None, timeout_s: float | None = None
    ) -> Generator[StreamedEvent, None, None]:
        """See `Producer.stream`."""
        return self._producer.stream(self.job_id, after, timeout_s)

    def result(self, timeout_s: float | None = None, *, check: bool = True) -> GenerationResult:
        """See `Producer.result`. After `as_completed` has given the handle, nothing is asked any more."""
        if not self._ended:
            return self._producer.result(self.job_id, timeout_s, check=check)
        return self._ended[0].raise_for_status() if check else self._ended[0]

    def text(self, timeout_s: float | None = None) -> str:
        """The text of the answer, once the job has ended.  Raises as `Producer.result`."""
        return self.result(timeout_s).text

    def text_stream(self, timeout_s: float | None = None) -> Generator[str, None, None]:
        """The text of the answer in pieces, as they come. Joined, they are that of `text`.

        A job that fails or is cancelled raises its error after the last piece that it had: whoever joins them does
        not take a half for the whole.  timeout_s and other errors: as `Producer.stream`.
        """
        return _pieces(self.stream(timeout_s=timeout_s))

    def message(self, timeout_s: float | None = None) -> Message:
        """The answer as the next of `messages`, with the tools that the model has called and what it thought.

        Raises as `Producer.result`.
        """
        return self.result(timeout_s).message

    def deltas(self, timeout_s: float | None = None) -> Generator[Delta, None, None]:
        """The message in pieces, as they come, in the form of OpenAI's chunks. Joined, they are that of `message`.

        They are made of the stream, from its first event on: read again, they join to the same message, with the
        same ids of calls. timeout_s and errors: as `text_stream`.
        """
        return _deltas(self.job_id, self.stream(timeout_s=timeout_s))

    def cancel(self) -> CancelOutcome:
        """See `Producer.cancel`."""
        return self._producer.cancel(self.job_id)

    def continue_job(self, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]) -> "JobHandle":
        """See `Producer.continue_job`."""
        return self._producer.continue_job(self.job_id, max_new_tokens, **options)

    def delete(self) -> None:
        """See `Producer.delete`."""
        self._producer.delete(self.job_id)

    def status(self) -> JobStatus:
        """See `Producer.status`."""
        return self._producer.status(self.job_id)


@dataclass(frozen=True)
class AsyncJobHandle:
    """A submitted job, bound to the producer that submitted it."""

    job_id: str
    model: str
    created: bool
    """False when a job of that id existed already: nothing was enqueued, this is that job."""
    _producer: AsyncProducerOfHandles = field(repr=False, compare=False)
    _ended: list[GenerationResult] = field(default_factory=list, init=False, repr=False, compare=False)
    """How it ended, where `as_completed` has said that it has."""

    def stream(
        self, after: EventId | str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[StreamedEvent, None]:
        """See `Producer.stream`."""
        return self._producer.stream(self.job_id, after, timeout_s)

    async def result(self, timeout_s: float | None = None, *, check: bool = True) -> GenerationResult:
        """See `Producer.result`. After `as_completed` has given the handle, nothing is asked any more."""
        if not self._ended:
            return await self._producer.result(self.job_id, timeout_s, check=check)
        return self._ended[0].raise_for_status() if check else self._ended[0]

    async def text(self, timeout_s: float | None = None) -> str:
        """See `JobHandle.text`."""
        return (await self.result(timeout_s)).text

    async def text_stream(self, timeout_s: float | None = None) -> AsyncGenerator[str, None]:
        """See `JobHandle.text_stream`. All that it raises comes while it is iterated, as that of `stream` does."""
        async with aclosing(self.stream(timeout_s=timeout_s)) as events:
            async for streamed in events:
                if piece := text_in(streamed):
                    yield piece

    async def message(self, timeout_s: float | None = None) -> Message:
        """See `JobHandle.message`."""
        return (await self.result(timeout_s)).message

    async def deltas(self, timeout_s: float | None = None) -> AsyncGenerator[Delta, None]:
        """See `JobHandle.deltas`. All that it raises comes while it is iterated, as that of `stream` does."""
        view = StreamView(self.job_id)
        async with aclosing(self.stream(timeout_s=timeout_s)) as events:
            async for streamed in events:
                if delta := view.hear(streamed.event):
                    yield delta
                text_in(streamed)  # raises the error of a job that has failed, behind its last delta

    async def cancel(self) -> CancelOutcome:
        """See `Producer.cancel`."""
        return await self._producer.cancel(self.job_id)

    async def continue_job(
        self, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]
    ) -> "AsyncJobHandle":
        """See `Producer.continue_job`."""
        return await self._producer.continue_job(self.job_id, max_new_tokens, **options)

    async def delete(self) -> None:
        """See `Producer.delete`."""
        await self._producer.delete(self.job_id)

    async def status(self) -> JobStatus:
        """See `Producer.status`."""
        return await self._producer.status(self.job_id)


def _pieces(stream: Generator[StreamedEvent, None, None]) -> Generator[str, None, None]:
    with closing(stream):
        for streamed in stream:
            if piece := text_in(streamed):
                yield piece


def _deltas(job_id: str, stream: Generator[StreamedEvent, None, None]) -> Generator[Delta, None, None]:
    view = StreamView(job_id)
    with closing(stream):
        for streamed in stream:
            if delta := view.hear(streamed.event):
                yield delta
            text_in(streamed)  # raises the error of a job that has failed, behind its last delta
