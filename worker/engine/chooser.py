"""From logits to the next tokens: each is chosen on the device, and taken once its id is on the host."""

from collections.abc import Sequence

from torch import Tensor

from producer.contract import TokenLogprob

from .constrained import Constrained
from .sampling.sampler import NOT_A_TOKEN, Sampler, token_logprob, why_no_token
from .token_ring import TokenRing
from .token_sequence import TokenSequence


class Chooser:
    """Of one generation. Its length is how many tokens were chosen whose ids are not read yet."""

    def __init__(
        self,
        sampler: Sampler,
        constrained: Constrained,
        tokens: TokenSequence,
        ring: TokenRing,
        *,
        runs_ahead: bool,
    ) -> None:
        """`runs_ahead`: a step may be launched before the token that it reads is seen."""
        self._sampler = sampler
        self._constrained = constrained
        self._tokens = tokens
        self._ring = ring
        self._runs_ahead = runs_ahead
        self.last: Tensor
        """(1, 1) int64 on the device: the token that was chosen last."""
        self._logits: Tensor

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def is_settled(self) -> bool:
        """Whether all of the answer is known."""
        return self._constrained.is_over or not self._tokens.room

    def choose(self, logits: Tensor) -> None:
        """Choose a token, and send it on its way to the host.  logits: (1, vocab) float32."""
        length = len(self._tokens) + len(self._ring)
        ids, bias = self._tokens.on_device[:, :length], self._constrained.bias()
        token = self._sampler.choose(logits, ids, length - self._tokens.prompt_tokens, bias)
        self._ring.push(token)
        self._tokens.unread = 1
        # A step may be launched before anybody has seen that this is no token, which nothing could look up.
        self.last = token.clamp(min=0) if self._runs_ahead else token
        if self._sampler.needs_ids:
            self._tokens.note(length, self.last)
        self._logits = logits

    def read(self) -> int:
        """The next token's id: the one wait for the device in a step.  Raises EngineError where it is none."""
        return self._take(self._ring.pop())

    def check(self, logits: Tensor, draft: Sequence[int]) -> list[int]:
        """What the model chose in place of a draft: the draft as far as it agrees, and one more.

        logits: (1 + len(draft), vocab) float32, after the last token and after each of the draft.
        """
        at_once = self._sampler.takes_rows and not self._constrained
        return self._choose_all(logits, draft) if at_once else self._choose_each(logits, draft)

    def logprob(self, token_id: int, top: int) -> TokenLogprob:
        """Of the token that was chosen last, with so many of the likeliest."""
        return token_logprob(self._logits, token_id, top)

    def clear(self) -> None:
        """Drop the tokens that nobody needs any more."""
        self._ring.clear()

    def _choose_each(self, logits: Tensor, draft: Sequence[int]) -> list[int]:
        chosen = []
        for row, guess in zip(logits.split(1), [*draft, None], strict=True):
            self.choose(row)
            chosen.append(self.read())
            if chosen[-1] != guess or self.is_settled:
                break
        return chosen

    def _choose_all(self, logits: Tensor, draft: Sequence[int]) -> list[int]:
        """With one wait for the device."""
        length = len(self._tokens)
        tokens = self._sampler.choose(logits, self._tokens.on_device, length - self._tokens.prompt_tokens)
        chosen = tokens.flatten().tolist()
        guesses = zip(chosen, draft, strict=False)
        count = next((at for at, (token_id, guess) in enumerate(guesses) if token_id != guess), len(draft)) + 1
        self.last, self._logits = tokens[count - 1 : count], logits
        return [self._take(token_id) for token_id in chosen[:count]]

    def _take(self, token_id: int) -> int:
        """For the next one of the sequence."""
        if token_id == NOT_A_TOKEN:
            raise why_no_token(self._logits, len(self._tokens))
        self._constrained.push(token_id)
        self._tokens.append(token_id)
        return token_id
