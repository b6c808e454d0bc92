"""The host's side of one job: from token ids to text, and to the reason why it ends.

Knows ids and text, no logits and no model. A resumed job replays its ids through here, and stands afterwards
exactly where the interrupted one stood.
"""

from typing import Literal

from producer.contract import GenerationRequest

from .detokenizer import Detokenizer
from .stop_strings import StopStrings
from .tokenizer import Tokenizer


class Output:
    """What a job has generated so far."""

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        *,
        max_new_tokens: int,
        eos_token_ids: frozenset[int],
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=request.skip_special_tokens)
        self._stop_strings = StopStrings(request.stop)
        self.max_new_tokens = max_new_tokens
        self._eos_token_ids = frozenset[int]() if request.ignore_eos else eos_token_ids
        self.token_count = 0
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stop: str | None = None
        """The stop string that ended the job, if one did."""

    def push(self, token_id: int) -> str:
        """Take the next id; return the text that it releases, and set finish_reason when it is the last."""
        self.token_count += 1
        text = self._stop_strings.push(self._detokenizer.push(token_id))
        if self._stop_strings.matched is None:
            self.finish_reason = self._reason_to_end(token_id)
            if self.finish_reason:
                text += self.flush()
        if self._stop_strings.matched is not None:
            self.finish_reason, self.stop = "stop", self._stop_strings.matched
        return text

    def flush(self) -> str:
        """The text still held back: an incomplete character, or what could have become a stop string."""
        return self._stop_strings.push(self._detokenizer.flush()) + self._stop_strings.flush()

    def _reason_to_end(self, token_id: int) -> Literal["stop", "length"] | None:
        if token_id in self._eos_token_ids:
            return "stop"
        return "length" if self.token_count >= self.max_new_tokens else None
