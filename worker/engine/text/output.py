"""The host's side of one job: from token ids to text, and to the reason why it ends.

Knows ids and text, no logits and no model. A resumed job replays its ids through here, and stands afterwards
exactly where the interrupted one stood.
"""

from typing import Literal

from producer.contract import GenerationRequest

from .constraint import Constraint
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
        constraint: Constraint | None = None,
    ) -> None:
        """`eos_token_ids`: of this request, those that end a turn of a chat with them.

        `constraint`: what the answer is held to. Whoever pushes a token here has pushed it there before.
        """
        self.constraint = constraint
        self._hidden_ids = _hidden_ids(request, tokenizer)
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_strings = StopStrings(request.stop)
        self._min_new_tokens = request.min_new_tokens
        self.max_new_tokens = max_new_tokens
        self.eos_token_ids = frozenset[int]() if request.ignore_eos else eos_token_ids
        self.token_count = 0
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stop: str | None = None
        """The stop string that ended the job, if one did."""

    def push(self, token_id: int) -> str:
        """Take the next id; return the text that it releases, and set finish_reason when it is the last."""
        self.token_count += 1
        text = self._take(token_id)
        if self._stop_strings.matched is None:
            self.finish_reason = self._reason_to_end(token_id)
            if self.finish_reason:
                text += self.flush()
        if self._stop_strings.matched is not None:
            self.finish_reason, self.stop = "stop", self._stop_strings.matched
        return text

    def flush(self) -> str:
        """The text still held back: an incomplete character, or what could have become a stop string."""
        return self._match(self._detokenizer.flush()) + self._stop_strings.flush()

    def _take(self, token_id: int) -> str:
        if token_id in self._hidden_ids:
            return self._match(self._tokenizer.content(token_id), hidden=True)
        text = self._match(self._detokenizer.push(token_id))
        held = self._detokenizer.held
        if held and "\ufffd" not in held and self._may_stop and self._stop_strings.would_match(held):
            text += self.flush()  # whole characters, which more bytes could only spoil: the job ends here
        return text

    def _match(self, text: str, *, hidden: bool = False) -> str:
        return self._stop_strings.push(text, hidden=hidden, counts=self._may_stop)

    @property
    def _may_stop(self) -> bool:
        """Whether a stop string may end in the token that came last.  Source: vLLM, v1/engine/detokenizer.py."""
        return self.token_count > self._min_new_tokens

    @property
    def _is_whole(self) -> bool:
        """Whether the structure that the answer is held to lets nothing follow. The constraint may be ahead."""
        ends_at = None if self.constraint is None else self.constraint.ends_at
        return ends_at is not None and self.token_count >= ends_at

    def _reason_to_end(self, token_id: int) -> Literal["stop", "length"] | None:
        if token_id in self.eos_token_ids or self._is_whole:
            return "stop"
        return "length" if self.token_count >= self.max_new_tokens else None


def _hidden_ids(request: GenerationRequest, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that show nothing. What ends the turn of a chat is one of them, also where the tokenizer has it as a
    token like any other. What marks a call is text where calls are looked for: without it there would be none."""
    if not request.skip_special_tokens:
        return frozenset()
    end_of_turn = tokenizer.end_of_turn_id if request.messages is not None else None
    hidden = tokenizer.special_ids if end_of_turn is None else tokenizer.special_ids | {end_of_turn}
    return hidden - tokenizer.call_marker_ids if request.calls_tools else hidden
