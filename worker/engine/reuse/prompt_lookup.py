"""Drafts for speculation, out of the prompt and the output: where the last tokens have stood before, what followed
them then may follow now.

A draft is checked by one forward pass over all of its tokens, which costs little more than one over a single
token, and is accepted as far as the model itself chooses the same: the text is the one without drafts, up to
near-ties. A product over many rows adds up in another order than one over a single row, so that logits differ in
their last bits (about 1e-5 in float32, far more in bfloat16), and with them, once in a long while, the choice.

Drafts limit themselves. Time that accepted drafts have saved is credit, time that refused ones have cost is spent
from it, and where there is none left there is no draft; a small share of the decoding time is always granted, to
try again. So a text without repetition loses that share and one trial at most, or one step where a trial is less.
Source: A. Saxena, "Prompt Lookup Decoding", 2023; the credit is ours.
"""

from collections.abc import Sequence

NGRAM = 3
SHORT_DRAFT, LONG_DRAFT = 7, 15
"""Tokens: with the one before them, 8 and 16 rows. A long one follows a short one that was accepted whole."""
GRANTED_SHARE = 0.01
"""Of the decoding time, for trials."""
MAX_TRIALS = 4
"""Credit is kept for so many refused drafts: what an earlier text has saved must not be lost on this one."""
_SMOOTHING = 0.2


class SpeculationCost:
    """What a step and the check of a draft take on this engine, in seconds; learned, and kept from job to job."""

    def __init__(self) -> None:
        self.step_s: float | None = None
        self.check_s: dict[int, float] = {}

    def note_step(self, seconds: float) -> None:
        """A decode step has taken so long."""
        self.step_s = _smooth(self.step_s, seconds)

    def note_check(self, draft: int, seconds: float) -> None:
        """The check of a draft of that length has taken so long."""
        self.check_s[draft] = _smooth(self.check_s.get(draft), seconds)

    def trial_s(self, draft: int) -> float:
        """What is lost when a draft of that length is refused at its first token."""
        step_s = self.step_s or 0.0
        return max(self.check_s.get(draft, 2 * step_s) - step_s, 0.0)


class PromptLookup:
    """The drafts of one job."""

    def __init__(self, ids: Sequence[int], cost: SpeculationCost) -> None:
        """ids: the prompt, and the output of an earlier attempt."""
        self._cost = cost
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        """Where the latest occurrence of an n-gram ends, the one at the very end excepted."""
        self._length = SHORT_DRAFT
        self._credit_s: float | None = None  # for one trial, once it is known what that costs
        for token_id in ids:
            self.push(token_id)

    def push(self, token_id: int) -> None:
        """The sequence has one token more."""
        if len(self._ids) >= NGRAM:
            self._after[tuple(self._ids[-NGRAM:])] = len(self._ids)
        self._ids.append(token_id)

    def draft(self, room: int) -> list[int]:
        """Tokens that may come next, at most `room`; none without a match or without credit."""
        length = min(self._length, room)
        start = self._after.get(tuple(self._ids[-NGRAM:]))
        if start is None or length < SHORT_DRAFT or self._cost.step_s is None:
            return []
        if self._credit_s is None:
            self._credit_s = max(self._cost.trial_s(length), self._cost.step_s)
        if self._credit_s < self._cost.trial_s(length):
            return []
        draft = self._ids[start : start + length]
        while len(draft) < length:  # the match reaches the end of the sequence: the text may go round in circles
            draft += draft[: length - len(draft)]
        return draft

    def note_step(self, seconds: float) -> None:
        """A token came without a draft."""
        self._cost.note_step(seconds)
        if self._credit_s is not None:
            self._grant(GRANTED_SHARE * seconds)

    def note_check(self, drafted: int, accepted: int, seconds: float) -> None:
        """A draft was checked: of its tokens, `accepted` were the model's own."""
        assert self._cost.step_s is not None, "there is no draft before the first step"
        self._cost.note_check(drafted, seconds)
        self._grant((accepted + 1) * self._cost.step_s - seconds)
        self._length = LONG_DRAFT if accepted == drafted else SHORT_DRAFT

    def _grant(self, seconds: float) -> None:
        # Not below a step: where a draft costs next to nothing, what is measured as its cost is noise.
        trial_s = max(self._cost.step_s or 0.0, *map(self._cost.trial_s, (SHORT_DRAFT, LONG_DRAFT)))
        self._credit_s = min((self._credit_s or 0.0) + seconds, MAX_TRIALS * trial_s)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + _SMOOTHING * (now - before)
