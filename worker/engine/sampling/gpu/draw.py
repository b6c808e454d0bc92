"""A choice from a whole vocabulary by kernels: top_k, top_p, min_p, noise and the argmax, without sorting.

Nothing waits for the device. Where the cut lies is found in two looks. All programs sum, for some depths below the
highest score, how many tokens lie no deeper, or what they weigh; and collect those between the two depths that
have the cut between them. One program finds it among these. A token's key is its score and then its id: of equal
scores, the higher ids stay. Weights are integers: in any order their sum is the same, and so is the cut.
"""

import torch
import triton
from torch import Tensor

from producer.contract import SamplingParams

from ...errors import NotSupported
from ..noise import GumbelNoise
from ..processors import apply, build_cutoffs, is_greedy
from . import kernels

_BLOCK = 512
"""Tokens of a program."""
_TILE = 64
"""Of them, those that are summed at once."""
_CUT_TILE, _CUT_WARPS = 2048, 8
"""Of the tokens that were collected, those that are looked at at once."""
_DEPTHS = 32
"""A power of two. The last one is above the highest score."""
_DEEPEST = 41.0
"""Noise lies between -3.7 and 36.8: a token that lies as deep is never drawn, and it weighs 0."""
_STEP = 0.75
"""From a depth to the next: flat scores have as many tokens between two as steep ones."""


class Draw:
    """Of one job."""

    def __init__(self, params: SamplingParams, seed: int, device: torch.device) -> None:
        self._draws = not is_greedy(params)
        self._top_k, self._min_p = (params.top_k or 0, float(params.min_p)) if self._draws else (0, 0.0)
        self._by_weight = self._draws and params.top_p < 1
        self._top_p = torch.tensor([params.top_p], dtype=torch.float64, device=device)
        self._seed = torch.tensor([seed], dtype=torch.int64, device=device)
        depths = [_DEEPEST * _STEP**number for number in range(_DEPTHS - 1)]
        self._depths = torch.tensor([*depths, -torch.inf], device=device)
        self._buffers: _Buffers | None = None

    def __call__(self, scores: Tensor, position: int) -> Tensor:
        """The tokens, (rows, 1) int64, or -1 where a score is no number or none is left.

        scores: (rows, vocab) float32, of consecutive positions from `position` on.
        """
        rows, vocab_size = scores.shape
        programs = triton.cdiv(vocab_size, _BLOCK)
        width = triton.next_power_of_2(programs)
        top_k = self._top_k if self._top_k < vocab_size else 0
        looks = self._by_weight or top_k > 0
        cuts = looks or self._min_p > 0
        own = self._buffers
        if own is None or len(own.cuts) < rows:
            own = self._buffers = _Buffers(rows, programs, vocab_size if looks else 0, scores.device)
        grid = (programs, rows)
        if cuts:
            kernels.find_highest[grid](
                scores, own.highest, own.sums, own.collected, own.cuts, vocab_size, _DEPTHS, _BLOCK
            )
        if looks:
            kernels.sum_by_depth[grid](
                scores, own.highest, self._depths, own.sums, vocab_size, width, top_k == 0, _DEPTHS, _BLOCK, _TILE
            )
            kernels.collect[grid](
                scores, own.highest, self._depths, own.sums, own.collected, own.keys, vocab_size, top_k,
                self._top_p, width, top_k == 0, _DEPTHS, _BLOCK,
            )  # fmt: skip
            kernels.find_cut[(rows,)](
                own.highest, self._depths, own.sums, own.collected, own.keys, own.cuts, vocab_size, programs,
                top_k, self._top_p, width, top_k > 0, self._by_weight, _DEPTHS, _CUT_TILE, num_warps=_CUT_WARPS,
            )  # fmt: skip
        kernels.find_best[grid](
            scores, own.highest, own.cuts, vocab_size, self._min_p, self._seed, position, own.best, own.ids, width,
            self._draws, cuts, _BLOCK,
        )  # fmt: skip
        tokens = torch.empty((rows, 1), dtype=torch.int64, device=scores.device)
        kernels.take_best[(rows,)](own.best, own.ids, tokens, programs, width)
        return tokens


class _Buffers:
    """What one kernel leaves for the next."""

    def __init__(self, rows: int, programs: int, vocab_size: int, device: torch.device) -> None:
        self.highest = torch.empty((rows, programs), device=device)
        self.best = torch.empty((rows, programs), device=device)
        self.ids = torch.empty((rows, programs), dtype=torch.int64, device=device)
        self.sums = torch.empty((rows, _DEPTHS), dtype=torch.int64, device=device)
        self.collected = torch.empty(rows, dtype=torch.int32, device=device)
        self.keys = torch.empty((rows, vocab_size), dtype=torch.int64, device=device)  # 1.2 MB of Qwen2's
        self.cuts = torch.empty(rows, dtype=torch.int64, device=device)


@torch.inference_mode()
def check(device: torch.device, vocab_size: int) -> None:
    """Compare with torch's way on this very card.  Raises NotSupported where they differ.

    Compiles all kernels for that vocabulary.
    """
    generator = torch.Generator(device).manual_seed(0)
    for fields in (
        {"temperature": 0.0},
        {},
        {"min_p": 0.01},
        {"top_k": 40},
        {"top_p": 0.9},
        {"top_k": 40, "top_p": 0.9},
    ):
        params = SamplingParams(**{"temperature": 1.0, **fields})
        draw, cutoffs, noise = Draw(params, 1, device), build_cutoffs(params), GumbelNoise(1, device)
        for position in range(4):
            scores = 3 * torch.randn((1, vocab_size), generator=generator, device=device)
            expected = apply(cutoffs, scores.new_empty((1, 0)), scores)
            if params.temperature:
                expected = expected + noise(position, vocab_size)
            if not torch.equal(draw(scores, position), expected.argmax(-1, keepdim=True)):
                raise NotSupported(f"a draw with {fields or 'noise alone'} is another one on this GPU")
