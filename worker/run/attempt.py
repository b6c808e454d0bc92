"""One worker's turn at a job: what the engine says becomes events, until the turn is over.

Knows the engine by its `Protocol`, the stream by the event log, and of Redis its errors alone. Knows no RQ and no
torch.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal, cast

import redis

from producer.contract import (
    EngineError,
    EngineFacts,
    ErrorInfo,
    GenerationRequest,
    GenerationResult,
    JobError,
    JobTimeout,
    Started,
    StartedData,
    StreamedEvent,
    TokenLogprob,
    Tokens,
    TokensData,
    job_error,
)
from producer.contract.assemble import assemble
from producer.contract.requests import DRAWN_SEEDS

from ..engine_process.client import EngineClient, EngineDied, EngineNotRunning
from ..engine_process.protocol import Accepted, Answer, Ended as EngineEnded, RunFailed, StepMessage
from ..job import AbortReason, AttemptProgress, Clock, Done, Order, Outcome, PutBack, Retry
from .event_log import EventLog

logger = logging.getLogger(__name__)


class Attempt:
    """One worker's turn at a job."""

    def __init__(
        self,
        order: Order,
        history: Sequence[StreamedEvent],
        log: EventLog,
        engine: EngineClient,
        *,
        worker_name: str,
        engine_facts: EngineFacts | None = None,
        cancel_requested: Callable[[], Awaitable[bool]],
        cancel_poll_s: float,
    ) -> None:
        """history: the events of earlier attempts; log: the job's stream, for this one.

        engine_facts: for the stream, what the engine runs on.
        cancel_requested: looks for a request to cancel the job. It may raise errors of Redis.
        """
        self._order = order
        self._history = history
        self._log = log
        self._worker_name = worker_name
        self._engine_facts = engine_facts
        self._cancel_requested = cancel_requested
        self._cancel_poll_s = cancel_poll_s
        self._clock = Clock()
        self._seed = _seed(order.request, history)
        earlier = [streamed.event.data for streamed in history if isinstance(streamed.event, Tokens)]
        self._resumed_ids = [token_id for data in earlier for token_id in data.ids]
        self._given_ids = [] if self._resumed_ids else list(order.request.output_token_ids or ())
        """Output that the request brings along, and that no attempt has published yet."""
        self._ids: list[int] = []
        self._text: list[str] = []
        self._cached_tokens = 0
        self._started: Started | None = None
        self._given: Tokens | None = None
        """The event of the output that the request brings along, once it is published."""
        self._finish: tuple[Literal["stop", "length"], str | None] | None = None
        self._failure: JobError | None = None
        self._engine_died: Literal["before", "over it"] | None = None
        self._abort: AbortReason | Literal["cancelled"] | None = None
        self._look = asyncio.Event()
        self._over = False
        self.progress = AttemptProgress(tokens=len(self._resumed_ids))  # those given count once they are published
        self._engine_run = engine.generate(order.request.to_wire(), seed=self._seed, resumed_ids=self._resumed_ids)

    async def run(self) -> Outcome:
        """Run the attempt.  Raises Moved or Fenced when the stream is no longer ours."""
        writer = asyncio.create_task(self._log.run(), name=f"append {self._order.job_id}")
        # Fenced off: nobody will see another token of ours.
        writer.add_done_callback(lambda _: self._engine_run.stop(flush=False))
        self._log.on_cancel_requested = partial(self.abort, "cancelled")
        watcher = asyncio.create_task(self._watch_for_cancel(), name=f"cancel? {self._order.job_id}")
        deadline = asyncio.get_running_loop().call_later(self._order.timeout_s, self.abort, "timeout")
        try:
            await self._consume()
            outcome = self._conclude()
            await writer
        finally:
            self._over = True
            deadline.cancel()
            watcher.cancel()
            writer.cancel()
            await self._engine_run.finish()
        return outcome

    def abort(self, reason: AbortReason | Literal["cancelled"]) -> None:
        """Stop at the next step. The first reason stands."""
        if self._abort is None:
            self._abort = reason
            # Text that is held back is handed over if the job ends here, and kept for the next attempt if not.
            ends = reason == "cancelled" or (reason == "timeout" and not self._order.can_retry)
            self._engine_run.stop(flush=ends)

    def look_for_cancel(self) -> None:
        """Look now for a request to cancel the job, and not when the time has come for the next look."""
        self._look.set()

    async def _watch_for_cancel(self) -> None:
        while self._abort is None and not self._over:  # a client may swallow a cancellation: the flag ends it, too
            asked = self._look.is_set()
            self._look.clear()
            if asked or not self._log.has_looked_within(self._cancel_poll_s):
                with contextlib.suppress(redis.RedisError):
                    if await self._cancel_requested():
                        self.abort("cancelled")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._cancel_poll_s):
                    await self._look.wait()

    async def _consume(self) -> None:
        """Turn what the engine says into events, until the run has ended."""
        try:
            async for batch in self._engine_run.batches():
                for are_steps, messages in groupby(batch, lambda message: isinstance(message, StepMessage)):
                    if are_steps:
                        self._publish(cast("list[StepMessage]", list(messages)))
                    else:
                        for message in messages:
                            self._hear(message)
        except EngineNotRunning:
            self._engine_died = "before"
        except EngineDied:
            job_id = self._order.job_id
            logger.error("job %s: the engine died", job_id, extra={"job_id": job_id})  # noqa: TRY400 - see its stderr
            self._engine_died = "over it"

    def _hear(self, message: Answer | StepMessage) -> None:
        if isinstance(message, Accepted):
            self._accept(message)
        elif isinstance(message, RunFailed):
            self._failure = job_error(message.code, message.message)
        elif isinstance(message, EngineEnded):
            self._clock.prefill_ms = message.prefill_ms
            self._cached_tokens = message.cached_tokens
            if message.tail:
                self._add(self._index, [], message.tail)

    def _accept(self, message: Accepted) -> None:
        data = StartedData(
            attempt=self._log.attempt,
            worker=self._worker_name,
            model=self._order.model,
            prompt_tokens=message.prompt_tokens,
            resumed_tokens=len(self._resumed_ids),
            seed=self._seed,
            runs_on=self._engine_facts,
            markup=message.markup,
        )
        self._started = Started(data=data)
        self._log.start(self._started)
        if self._given_ids:
            given = TokensData(index=0, ids=tuple(self._given_ids), text=message.given_text)
            self._given = Tokens(data=given)
            self._log.given(self._given)
            self.progress.tokens = self._index
        self.progress.phase = "prefill"
        if message.finish_reason:
            self._finish = (message.finish_reason, message.stop)

    def _publish(self, steps: Sequence[StepMessage]) -> None:
        logprobs = [TokenLogprob.model_validate(step.logprob) for step in steps if step.logprob is not None]
        ids = [step.token_id for step in steps]
        index = self._index
        for step in steps:
            self._clock.note(step.sampled_at)
        self._add(index, ids, "".join(step.text for step in steps), logprobs)
        if (last := steps[-1]).finish_reason:
            self._finish = (last.finish_reason, last.stop)
        self.progress.phase = "decode"
        self.progress.tokens = self._index
        self.progress.tokens_per_second = self._clock.tokens_per_second(len(self._ids))

    @property
    def _index(self) -> int:
        """Position of the next token in the output."""
        return len(self._resumed_ids) + self._given_count + len(self._ids)

    @property
    def _given_count(self) -> int:
        return 0 if self._given is None else len(self._given.data.ids)

    def _add(self, index: int, ids: list[int], text: str, logprobs: Sequence[TokenLogprob] = ()) -> None:
        self._ids += ids
        self._text.append(text)
        self._log.tokens(index, ids, text, logprobs)

    # -- the end

    def _conclude(self) -> Outcome:
        """Decide how the attempt ended, and hand its last event to the log."""
        if self._finish:
            return self._end(self._result("finished", self._finish[0], stop=self._finish[1]))
        if self._engine_died:
            # One that was killed because the worker has to leave has not died over the job.
            is_death = self._engine_died == "over it" and self._abort != "shutdown"
            return self._leave(PutBack("the engine died", engine_died=is_death))
        if self._failure:
            return self._fail(self._failure)
        if self._abort == "cancelled":
            return self._end(self._result("cancelled", "cancelled"))
        if self._abort == "shutdown":
            return self._leave(PutBack("the worker is shutting down"))
        return self._fail(_timed_out(self._order.timeout_s) if self._abort == "timeout" else _gave_up())

    def _fail(self, error: JobError) -> Outcome:
        if error.retryable and self._order.can_retry:
            return self._leave(Retry(error))
        return self._end(self._result("failed", "error", error=error))

    def _leave(self, outcome: PutBack | Retry) -> Outcome:
        """End the attempt, and not the job."""
        self._log.close()
        return outcome

    def _end(self, result: GenerationResult) -> Done:
        self._log.end(result)
        return Done(result)

    def _result(
        self,
        status: Literal["finished", "failed", "cancelled"],
        finish_reason: Literal["stop", "length", "cancelled", "error"],
        *,
        stop: str | None = None,
        error: JobError | None = None,
    ) -> GenerationResult:
        ours = Tokens(data=TokensData(index=0, ids=tuple(self._ids), text="".join(self._text)))
        events: list[Any] = [*self._history, *filter(None, [self._started, self._given]), ours]
        result = assemble(
            self._order.job_id,
            self._order.model,
            events,
            status=status,
            finish_reason=finish_reason,
            stop=stop,
            seed=self._seed,
            cached_tokens=self._cached_tokens,
            error=error_info(error) if error else None,
            timings=self._clock.timings(len(self._ids), self._order.queued_ms),
        )
        return result.model_copy(update={"attempts": self._log.attempt, "worker": self._worker_name})


def error_info(error: JobError) -> ErrorInfo:
    """An error as it stands in a result."""
    return ErrorInfo.model_validate({"code": error.code, "message": str(error)})


def _timed_out(timeout_s: float) -> JobTimeout:
    return JobTimeout(f"the job took longer than its {timeout_s:g} s: raise timeout_s or lower max_new_tokens")


def _gave_up() -> EngineError:
    return EngineError("the engine stopped before the job's end and gave no reason: submit it again")


def _seed(request: GenerationRequest, history: Sequence[StreamedEvent]) -> int:
    """The job's seed: its own, else the one that the first attempt drew."""
    if request.seed is not None:
        return request.seed
    for streamed in history:
        if isinstance(streamed.event, Started):
            return streamed.event.data.seed
    return secrets.randbelow(DRAWN_SEEDS)
