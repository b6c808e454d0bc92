"""The tokens that top_k, top_p and min_p leave in the draw, alone and sorted: a draw among twenty is as cheap as
twenty numbers. For the CPU, where their number is known at no cost; a GPU would have to wait for it.

The same tokens as after transformers' processors, which mask a whole vocabulary again and again. In numpy: on so
few numbers, an operation takes less time than one on tensors.
"""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from producer.contract import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_LEAST = math.ulp(0.0)
"""The smallest weight that is one."""
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
            kept = self._count(best.numpy()[0], (scores - best[:, :1]).exp().sum().item())
            if kept < looked_at:
                break
        return _first(kept, best, tokens, scores)

    def _of_top_k(self, scores: Tensor) -> tuple[Floats, Ids]:
        best, tokens = scores.topk(min(self._top_k + 1, scores.shape[-1]))
        values = best.numpy()[0]
        if len(values) > self._top_k:
            if values[-1] != values[-2] or values[-1] == -math.inf:
                values = values[:-1]
            else:  # those that equal the last one all stay
                best, tokens = scores.topk(int((scores >= best[0, -1]).count_nonzero()))
                values = best.numpy()[0]
        return _first(self._count(values), best, tokens, scores)

    def _count(self, scores: Floats, total: float | None = None) -> int:
        """How many top_p and min_p leave, without those that cannot come at all.  scores: highest first.

        `total`: the sum over the whole draw of exp(score - the highest), where there are more than these scores.
        """
        with np.errstate(all="ignore"):  # what is no number is kept, and seen by who draws
            weights = np.exp(np.subtract(scores, scores[0], dtype=np.float64))
            goes = weights[1:] < max(self._min_p, _LEAST)
            if self._top_p < 1:
                above = weights.cumsum()
                goes |= above[:-1] >= self._top_p * (above[-1] if total is None else total)
        first = int(goes.argmax()) if len(goes) else 0
        return first + 1 if len(goes) and goes[first] else len(scores)


def _first(count: int, best: Tensor, tokens: Tensor, scores: Tensor) -> tuple[Floats, Ids]:
    """So many of the best, (1, n) both. Of tokens with one score, those with the higher ids stay."""
    values: Floats = best.numpy()[0]
    ids: Ids = tokens.numpy()[0, :count]
    if count < len(values) and values[count - 1] == values[count]:
        above = int((values > values[count]).sum())
        alike = (scores.numpy()[0] == values[count]).nonzero()[0]
        ids = np.concatenate([ids[:above], alike[len(alike) - (count - above) :]])
    return values[:count], ids
