"""What a job has said so far, in all its attempts: where its next token stands, and what its result would be.

Values alone: knows neither the engine nor the stream.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Literal

from producer.contract import (
    ErrorInfo,
    GenerationRequest,
    GenerationResult,
    JobError,
    Started,
    StreamedEvent,
    Timings,
    Tokens,
    TokensData,
)
from producer.contract.assemble import assemble
from producer.contract.requests import DRAWN_SEEDS

from ..job import Order


class Transcript:
    """One job's, from the view of one attempt.  history: the events of the attempts before it."""

    def __init__(self, order: Order, history: Sequence[StreamedEvent]) -> None:
        self._order, self._history = order, history
        earlier = [streamed.event.data for streamed in history if isinstance(streamed.event, Tokens)]
        self._earlier_ids = [token_id for data in earlier for token_id in data.ids]
        self._given_ids = () if self._earlier_ids else tuple(order.request.output_token_ids or ())
        self._given: Tokens | None = None
        self._ids: list[int] = []
        self._text: list[str] = []
        self.started: Started | None = None
        self.seed = _seed(order.request, history)

    @property
    def resumed_tokens(self) -> int:
        """Of the attempts before this one."""
        return len(self._earlier_ids)

    @property
    def own_tokens(self) -> int:
        """That this attempt has generated."""
        return len(self._ids)

    @property
    def index(self) -> int:
        """Position of the next token in the output."""
        return len(self._earlier_ids) + (len(self._given.data.ids) if self._given else 0) + len(self._ids)

    @property
    def published_ids(self) -> list[int]:
        """All output that stands in the stream, or is on its way there."""
        return [*self._earlier_ids, *(self._given.data.ids if self._given else ()), *self._ids]

    def give(self, text: str) -> Tokens | None:
        """The event of the output that the request brings along; None where it has none, or an attempt had it.

        text: of that output, as far as it is certain.
        """
        if self._given_ids and self._given is None:
            self._given = Tokens(data=TokensData(index=0, ids=self._given_ids, text=text))
            return self._given
        return None

    def add(self, ids: Sequence[int], text: str) -> None:
        """What the engine has generated."""
        self._ids += ids
        self._text.append(text)

    def result(
        self,
        status: Literal["finished", "failed", "cancelled"],
        finish_reason: Literal["stop", "length", "cancelled", "error"],
        *,
        stop: str | None = None,
        error: JobError | None = None,
        cached_tokens: int,
        timings: Timings,
    ) -> GenerationResult:
        """What it all amounts to, should the job end now."""
        ours = Tokens(data=TokensData(index=0, ids=tuple(self._ids), text="".join(self._text)))
        events: list[Any] = [*self._history, *filter(None, [self.started, self._given]), ours]
        return assemble(
            self._order.job_id,
            self._order.model,
            events,
            status=status,
            finish_reason=finish_reason,
            stop=stop,
            seed=self.seed,
            cached_tokens=cached_tokens,
            error=error_info(error) if error else None,
            timings=timings,
        )


def error_info(error: JobError) -> ErrorInfo:
    """An error as it stands in a result."""
    return ErrorInfo.model_validate({"code": error.code, "message": str(error)})


def _seed(request: GenerationRequest, history: Sequence[StreamedEvent]) -> int:
    """The job's seed: its own, else the one that the first attempt drew."""
    if request.seed is not None:
        return request.seed
    for streamed in history:
        if isinstance(streamed.event, Started):
            return streamed.event.data.seed
    return secrets.randbelow(DRAWN_SEEDS)
