"""What a row came to, and the line that is written for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..contract import GenerationResult, TokenLogprob
from .rows import Row


@dataclass(frozen=True, slots=True)
class Answer:
    """How a row ended: with a result, good or bad, or with the reason why it has none."""

    row: Row
    result: GenerationResult | None = None
    code: str = ""
    reason: str = ""
    logprobs: Sequence[TokenLogprob] | None = None
    """One for each id of the result, where the row asked for them and they are still there."""

    @property
    def failed(self) -> bool:
        """Whether there is no text that its model came to the end of."""
        return self.result is None or self.result.status != "finished"

    @property
    def failure(self) -> tuple[str, str]:
        """Code and message of one that failed."""
        if self.result is None:
            return self.code, self.reason
        if self.result.status == "cancelled":
            return "cancelled", "the job was cancelled"
        error = self.result.failure
        return error.code, str(error)

    @property
    def tokens(self) -> int:
        """How many were generated."""
        return 0 if self.result is None else self.result.usage.completion_tokens


def own_line(answer: Answer) -> dict[str, Any]:
    """The line of the input, and the job's whole result; without a job, its id, status and error alone."""
    row = answer.row
    names: dict[str, Any] = {"line": row.line}
    if row.custom_id is not None:
        names["custom_id"] = row.custom_id
    if answer.result is None:
        error = {"code": answer.code, "message": answer.reason}
        return {**names, "job_id": row.job_id, "status": "failed", "error": error}
    line = {**names, **answer.result.model_dump(mode="json")}
    if answer.logprobs is not None:
        line["logprobs"] = [each.model_dump(mode="json") for each in answer.logprobs]
    return line
