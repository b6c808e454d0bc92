"""The tokens that top_k, top_p and min_p leave in the draw, alone and sorted: a draw among twenty is as cheap as
twenty numbers. For the CPU, where their number is known at no cost; a GPU would have to wait for it.

The same tokens as after transformers' processors, which mask a whole vocabulary again and again. Python's own
arithmetic: a few dozen numbers take less time than one operation on tensors.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from producer.contract import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_FIRST_LOOK = 256
"""Without top_k: so many tokens are sorted first, which nearly always hold all that top_p and min_p leave."""


class Candidates:
    """top_k, top_p and min_p, one after the other."""

    def __init__(self, params: SamplingParams) -> None:
        self._top_k, self._top_p, self._min_p = params.top_k, params.top_p, params.min_p

    def __call__(self, scores: Tensor) -> tuple[Floats, Ids]:
        """scores: (1, vocab) float32.  Returns the scores that stay, highest first, and their ids, (n,) each.

        n is never 0. A score that is no number stands first.
        """
        if self._top_k:
            return self._of_top_k(scores)
        vocab_size = scores.shape[-1]
        for looked_at in (min(_FIRST_LOOK, vocab_size), vocab_size):
            best, tokens = scores.topk(looked_at)
            kept = self._count(best.tolist()[0], (scores - best[:, :1]).exp().sum().item())
            if kept < looked_at:
                break
        return _first(kept, best, tokens, scores)

    def _of_top_k(self, scores: Tensor) -> tuple[Floats, Ids]:
        best, tokens = scores.topk(min(self._top_k + 1, scores.shape[-1]))
        values = best.tolist()[0]
        if len(values) > self._top_k:
            if values[-1] != values[-2] or values[-1] == -math.inf:
                values = values[:-1]
            else:  # those that equal the last one all stay
                best, tokens = scores.topk(int((scores >= best[0, -1]).count_nonzero()))
                values = best.tolist()[0]
        return _first(self._count(values), best, tokens, scores)

    def _count(self, scores: Sequence[float], total: float | None = None) -> int:
        """How many top_p and min_p leave, without those that cannot come at all.  scores: highest first.

        `total`: the sum over the whole draw of exp(score - the highest), where there are more than these scores.
        """
        weights = [math.exp(score - scores[0]) for score in scores]
        enough = self._top_p * (sum(weights) if total is None else total) if self._top_p < 1 else math.inf
        above = 0.0
        for count, weight in enumerate(weights):
            if count and (above >= enough or weight < self._min_p or not weight):
                return count
            above += weight
        return len(weights)


def _first(count: int, best: Tensor, tokens: Tensor, scores: Tensor) -> tuple[Floats, Ids]:
    """So many of the best, (1, n) both. Of tokens with one score, those with the higher ids stay."""
    values: Floats = best.numpy()[0]
    ids: Ids = tokens.numpy()[0, :count]
    if count < len(values) and values[count - 1] == values[count]:
        above = int((values > values[count]).sum())
        alike = (scores.numpy()[0] == values[count]).nonzero()[0]
        ids = np.concatenate([ids[:above], alike[len(alike) - (count - above) :]])
    return values[:count], ids
