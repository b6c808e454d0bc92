"""One worker's turn at a job: what the engine says becomes events, until the turn is over.

Where the engine is taken away for a job of a higher priority, the attempt stays, with its events and ids in
memory, and goes on from there with another run of the engine: the stream shows a pause, and nothing else.

Knows the engine by its `Protocol`, the stream by the event log, and of Redis its errors alone. Knows no RQ and no
torch.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Literal, cast

from producer.contract import (
    EngineError,
    EngineFacts,
    GenerationResult,
    JobError,
    JobTimeout,
    Started,
    StartedData,
    StreamedEvent,
    TokenLogprob,
    job_error,
)

from ..engine_process.client import EngineClient, EngineDied, EngineNotRunning
from ..engine_process.protocol import Accepted, Answer, Ended as EngineEnded, RunFailed, StepMessage
from ..job import AbortReason, AttemptProgress, Clock, Done, Order, Outcome, PutBack, Retry
from .engine_runs import EngineRuns
from .event_log import EventLog
from .transcript import Transcript
from .turn import Turn
from .wish import Wish

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
        turn: Turn | None = None,
        worker_name: str,
        engine_facts: EngineFacts | None = None,
        cancel_requested: Callable[[], Awaitable[bool]],
        cancel_poll_s: float,
    ) -> None:
        """history: the events of earlier attempts; log: the job's stream, for this one.

        turn: when it may have the engine; None: from the beginning to the end.
        engine_facts: for the stream, what the engine runs on.
        cancel_requested: looks for a request to cancel the job. It may raise errors of Redis.
        """
        self._order = order
        self._log = log
        self._turn = turn or Turn()
        self._runs = EngineRuns(engine, order, self._turn, partial(self.abort, "timeout"))
        self._worker_name = worker_name
        self._engine_facts = engine_facts
        cancel = partial(self.abort, "cancelled")
        self._wish = Wish(cancel_requested, cancel, seen_within=log.has_looked_within, poll_s=cancel_poll_s)
        log.on_cancel_requested = cancel
        self._clock = Clock()
        self._said = Transcript(order, history)
        self._cached_tokens = 0
        self._finish: tuple[Literal["stop", "length"], str | None] | None = None
        self._failure: JobError | None = None
        self._engine_died: Literal["before", "over it"] | None = None
        self._abort: AbortReason | Literal["cancelled"] | None = None
        self._held_back = ""
        """Text that the engine held back when its run was stopped."""
        self._ending = asyncio.Event()
        """Nothing more is to be generated."""
        self.progress = AttemptProgress(tokens=self._said.index)  # those given count once they are published

    async def run(self) -> Outcome:
        """Run the attempt.  Raises Moved or Fenced when the stream is no longer ours."""
        writer = asyncio.create_task(self._log.run(), name=f"append {self._order.job_id}")
        # Fenced off: nobody will see another token of ours.
        writer.add_done_callback(lambda _: self._stop(flush=False))
        watcher = asyncio.create_task(self._wish.watch(), name=f"cancel? {self._order.job_id}")
        try:
            await self._generate()
            outcome = self._conclude()
            await writer
        finally:
            self._wish.is_over = True
            watcher.cancel()
            writer.cancel()
            await self._runs.finish()
        return outcome

    @property
    def is_parked(self) -> bool:
        """Whether it waits for the engine, which another job has."""
        return self._wish.is_parked

    @property
    def held_tokens(self) -> int:
        """Of prompt and output, that the engine holds: what it costs to park it."""
        return self._said.index + (self._said.started.data.prompt_tokens if self._said.started else 0)

    def abort(self, reason: AbortReason | Literal["cancelled"]) -> None:
        """Stop at the next step. The first reason stands."""
        if self._abort is None:
            self._abort = reason
            self._wish.is_over = True
            # Text that is held back is handed over if the job ends here, and kept for the next attempt if not.
            self._stop(flush=reason == "cancelled" or (reason == "timeout" and not self._order.can_retry))

    def look_for_cancel(self) -> None:
        """Look now for a request to cancel the job, and not when the time has come for the next look."""
        self._wish.look_now()

    # -- runs of the engine

    async def _generate(self) -> None:
        """Have the engine, and again where it was taken away, until there is nothing more to generate."""
        while True:
            # It may be taken away again before we come to know that it was given back.
            while not (self._turn.is_mine or self._ending.is_set()):
                await self._wait_for_turn()
            if self._ending.is_set():
                return
            self._held_back = ""
            await self._consume(self._runs.begin(self._said.seed, self._said.published_ids))
            self._runs.end()
            if not self._runs.is_parking or self._finish or self._failure or self._engine_died:
                return

    async def _wait_for_turn(self) -> None:
        phase, self.progress.phase, self._wish.is_parked = self.progress.phase, "paused", True
        self._clock.park()
        await self._turn.come(self._ending)
        self._clock.go_on()
        self.progress.phase, self._wish.is_parked = phase, False

    def _stop(self, *, flush: bool) -> None:
        self._ending.set()
        self._runs.stop(flush=flush)

    async def _consume(self, batches: AsyncIterator[Sequence[Answer | StepMessage]]) -> None:
        """Turn what the engine says into events, until the run has ended."""
        try:
            async for batch in batches:
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
            if self._clock.prefill_ms is None:  # when it goes on, all was read before
                self._cached_tokens = message.cached_tokens
            self._clock.note_prefill(message.prefill_ms)
            self._held_back = message.tail

    def _accept(self, message: Accepted) -> None:
        if self._said.started is None:
            self._start(message)
        self.progress.phase = "prefill"
        if message.finish_reason:
            self._finish = (message.finish_reason, message.stop)

    def _start(self, message: Accepted) -> None:
        data = StartedData(
            attempt=self._log.attempt,
            worker=self._worker_name,
            model=self._order.model,
            prompt_tokens=message.prompt_tokens,
            resumed_tokens=self._said.resumed_tokens,
            seed=self._said.seed,
            runs_on=self._engine_facts,
            markup=message.markup,
        )
        self._said.started = Started(data=data)
        self._log.start(self._said.started)
        if given := self._said.give(message.given_text):
            self._log.given(given)
            self.progress.tokens = self._said.index

    def _publish(self, steps: Sequence[StepMessage]) -> None:
        logprobs = [TokenLogprob.model_validate(step.logprob) for step in steps if step.logprob is not None]
        for step in steps:
            self._clock.note(step.sampled_at)
        self._add([step.token_id for step in steps], "".join(step.text for step in steps), logprobs)
        if (last := steps[-1]).finish_reason:
            self._finish = (last.finish_reason, last.stop)
        self.progress.phase = "decode"
        self.progress.tokens = self._said.index
        self.progress.tokens_per_second = self._clock.tokens_per_second(self._said.own_tokens)

    def _add(self, ids: list[int], text: str, logprobs: Sequence[TokenLogprob] = ()) -> None:
        self._log.tokens(self._said.index, ids, text, logprobs)
        self._said.add(ids, text)

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
        if self._abort == "shutdown":
            return self._leave(PutBack("the worker is shutting down"))
        if self._abort == "cancelled":
            self._hand_over()
            return self._end(self._result("cancelled", "cancelled"))
        return self._fail(_timed_out(self._order.timeout_s) if self._abort == "timeout" else _gave_up())

    def _fail(self, error: JobError) -> Outcome:
        if error.retryable and self._order.can_retry:
            return self._leave(Retry(error))
        self._hand_over()
        return self._end(self._result("failed", "error", error=error))

    def _hand_over(self) -> None:
        """The text that was held back: nothing follows that it could be a part of."""
        if self._held_back:
            self._add([], self._held_back)

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
        result = self._said.result(
            status,
            finish_reason,
            stop=stop,
            error=error,
            cached_tokens=self._cached_tokens,
            timings=self._clock.timings(self._said.own_tokens, self._order.queued_ms),
        )
        return result.model_copy(update={"attempts": self._log.attempt, "worker": self._worker_name})


def _timed_out(timeout_s: float) -> JobTimeout:
    return JobTimeout(f"the job took longer than its {timeout_s:g} s: raise timeout_s or lower max_new_tokens")


def _gave_up() -> EngineError:
    return EngineError("the engine stopped before the job's end and gave no reason: submit it again")
