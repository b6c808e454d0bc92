"""A draw from a whole vocabulary: top_k, top_p, min_p, noise and the argmax, without sorting and without waiting.

The cut is found digit by digit (radix selection): each launch counts, among the tokens that begin as the cut
does so far, how many there are, or how much they weigh, for each of 256 next digits. A token's key is its score
and then its id, so that of equal scores the higher ids stay. Weights are summed as integers: in any order they
are the same, and the same cut is found at each time.
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, ANN202, N803, PLR0917, PLR0124, RUF059, SIM108

import torch
import triton
import triton.language as tl
from torch import Tensor

from producer.contract import SamplingParams

from ...errors import NotSupported
from ..noise import GumbelNoise
from ..processors import apply, build_cutoffs

_BLOCK = 2048
"""Tokens of a program."""
_TILE = 32
"""Of them, those that are counted at once."""
_SCORE_SHIFTS = 48, 40, 32, 24
_ID_SHIFTS = 16, 8, 0
"""Of the digits of a key: 32 bits of a score, 24 of an id."""
_FIELDS = 4
"""Of the state of a selection: the key so far, what lies above, how much is to, and the lowest key that counts."""


class Draw:
    """Of one job."""

    def __init__(self, params: SamplingParams, seed: int, device: torch.device) -> None:
        self._top_k, self._top_p, self._min_p = params.top_k or 0, float(params.top_p), float(params.min_p)
        self._seed = torch.tensor([seed], dtype=torch.int64, device=device)
        shifts = [(shift, False) for shift in _SCORE_SHIFTS if self._top_k]
        self._passes = shifts + [(shift, True) for shift in (*_SCORE_SHIFTS, *_ID_SHIFTS) if self._top_p < 1]
        self._sums = torch.zeros((max(len(self._passes), 1), 256), dtype=torch.int64, device=device)
        self._state = torch.zeros((len(self._passes) + 1, _FIELDS), dtype=torch.int64, device=device)
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, scores: Tensor, position: int) -> Tensor:
        """The token, (1, 1) int64, or -1 where a score is no number or none is left.

        scores: (1, vocab) float32.
        """
        vocab_size = scores.shape[-1]
        programs = triton.cdiv(vocab_size, _BLOCK)
        if self._parts is None:
            self._parts = (
                torch.empty(programs, device=scores.device),
                torch.empty(programs, device=scores.device),
                torch.empty(programs, dtype=torch.int64, device=scores.device),
            )
        highest, best, ids = self._parts
        width = triton.next_power_of_2(programs)
        cuts = bool(self._passes) or self._min_p > 0
        top_k = min(self._top_k, vocab_size)
        if cuts:
            _find_highest[(programs,)](scores, highest, self._sums, self._sums.numel(), vocab_size, _BLOCK)
        before = (0, False)
        for number, (shift, by_weight) in enumerate(self._passes):
            _sum_by_digit[(programs,)](
                scores, highest, self._sums, self._state, number, vocab_size, top_k, self._top_p, programs,
                shift, before[0], width, by_weight, number == 0 or by_weight != before[1], before[1],
                before[0] == _SCORE_SHIFTS[0], _BLOCK, _TILE, num_warps=8,
            )  # fmt: skip
            before = shift, by_weight
        _add_noise[(programs,)](
            scores, highest, self._sums, self._state, len(self._passes), vocab_size, top_k, self._top_p,
            self._min_p, self._seed, position, best, ids, programs, before[0], width, cuts, bool(self._passes),
            before[1], _BLOCK,
        )  # fmt: skip
        token = torch.empty((1, 1), dtype=torch.int64, device=scores.device)
        _take_best[(1,)](best, ids, token, programs, width)
        return token


@torch.inference_mode()
def check(device: torch.device) -> None:
    """Compare with torch's way on this very card.  Raises NotSupported where they differ."""
    generator = torch.Generator(device).manual_seed(0)
    for fields in ({}, {"top_k": 40}, {"top_p": 0.9}, {"top_k": 40, "top_p": 0.9, "min_p": 0.01}):
        params = SamplingParams(temperature=1.0, **fields)
        draw, cutoffs, noise = Draw(params, 1, device), build_cutoffs(params), GumbelNoise(1, device)
        for position in range(4):
            scores = 3 * torch.randn((1, 5000), generator=generator, device=device)
            expected = apply(cutoffs, scores.new_empty((1, 0)), scores) + noise(position, 5000)
            if not torch.equal(draw(scores, position), expected.argmax(-1, keepdim=True)):
                raise NotSupported(f"a draw with {fields or 'noise alone'} is another one on this GPU")


@triton.jit  # type: ignore[untyped-decorator]
def _find_highest(scores, highest, sums, sums_length, vocab_size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of each block; and make what is summed later 0."""
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(scores + at, mask=at < vocab_size, other=float("-inf"))
    tl.store(highest + program, tl.max(found, 0))
    for first in tl.range(program * BLOCK, sums_length, tl.num_programs(0) * BLOCK):
        place = first + tl.arange(0, BLOCK)
        tl.store(sums + place, tl.zeros((BLOCK,), tl.int64), mask=place < sums_length)


@triton.jit
def _key(score, token):  # type: ignore[no-untyped-def]
    """56 bits in the order of scores, and of ids behind these."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # minus 0 is 0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648
    return (ordered << 24) | token.to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator]
def _narrowed(  # type: ignore[no-untyped-def]
    sums, state, number, top_k, top_p, shift, BY_WEIGHT: tl.constexpr, IS_FIRST: tl.constexpr
):
    """The state after a pass, by what it has summed: in which digit the last one that stays lies."""
    digits = tl.arange(0, 256)
    summed = tl.load(sums + number * 256 + digits)
    total = tl.sum(summed, 0)
    key, above, enough = (
        tl.load(state + number * 4),
        tl.load(state + number * 4 + 1),
        tl.load(state + number * 4 + 2),
    )
    lowest = tl.load(state + number * 4 + 3)
    if IS_FIRST:
        key, above = key * 0, above * 0
        if BY_WEIGHT:
            enough = tl.ceil(total.to(tl.float64) * top_p).to(tl.int64)
        else:
            enough = enough * 0 + top_k
        enough = tl.maximum(tl.minimum(enough, total), 1)
    without = above + total - tl.cumsum(summed, 0)
    here = (without < enough) & (without + summed >= enough)
    key = key | (tl.sum(tl.where(here, digits, 0), 0).to(tl.int64) << shift)
    above = tl.sum(tl.where(here, without, 0), 0)
    return key, above, enough, lowest


@triton.jit(do_not_specialize=["number", "top_k", "shift", "shift_before"])  # type: ignore[untyped-decorator]
def _sum_by_digit(  # type: ignore[no-untyped-def]
    scores,
    highest,
    sums,
    state,
    number,
    vocab_size,
    top_k,
    top_p,
    programs,
    shift,
    shift_before,
    WIDTH: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
    IS_FIRST: tl.constexpr,  # of its selection
    BY_WEIGHT_BEFORE: tl.constexpr,
    BEFORE_IS_FIRST: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    program = tl.program_id(0)
    key, lowest = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    above, enough = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    if number > 0:
        key, above, enough, lowest = _narrowed(
            sums, state, number - 1, top_k, top_p, shift_before, BY_WEIGHT_BEFORE, BEFORE_IS_FIRST
        )
        if IS_FIRST:  # top_p, behind top_k: what this has left is all there is
            lowest, key = key, key * 0
    if program == 0:
        tl.store(state + number * 4, key)
        tl.store(state + number * 4 + 1, above)
        tl.store(state + number * 4 + 2, enough)
        tl.store(state + number * 4 + 3, lowest)
    parts = tl.arange(0, WIDTH)
    most = tl.max(tl.load(highest + parts, mask=parts < programs, other=float("-inf")), 0)
    digits = tl.arange(0, 256)
    summed = tl.zeros((256,), tl.int64)
    for first in tl.range(program * BLOCK, tl.minimum(program * BLOCK + BLOCK, vocab_size), TILE):
        token = first + tl.arange(0, TILE)
        score = tl.load(scores + token, mask=token < vocab_size, other=float("-inf"))
        own = _key(score, token)
        counts = (token < vocab_size) & (own >= lowest)
        if not IS_FIRST:
            counts = counts & ((own >> (shift + 8)) == (key >> (shift + 8)))
        if BY_WEIGHT:
            exponential = tl.where(score < most, tl.exp(score - most), 1.0)  # where it is no number, either
            weight = (exponential * 1099511627776.0).to(tl.int64)
        else:
            weight = tl.full((TILE,), 1, tl.int64)
        weight = tl.where(counts, weight, 0)
        digit = ((own >> shift) & 255).to(tl.int32)
        summed += tl.sum(tl.where(digits[:, None] == digit[None, :], weight[None, :], 0), 1)
    tl.atomic_add(sums + number * 256 + digits, summed, mask=summed != 0)


@triton.jit
def _split_mix_64(seed, index):  # type: ignore[no-untyped-def]
    """As `noise.split_mix_64`."""
    z = seed + (index + 1) * -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@triton.jit(do_not_specialize=["number", "top_k", "position", "shift_before"])  # type: ignore[untyped-decorator]
def _add_noise(  # type: ignore[no-untyped-def]
    scores,
    highest,
    sums,
    state,
    number,
    vocab_size,
    top_k,
    top_p,
    min_p,
    seed,
    position,
    best,
    ids,
    programs,
    shift_before,
    WIDTH: tl.constexpr,
    CUTS: tl.constexpr,
    SELECTS: tl.constexpr,
    BY_WEIGHT_BEFORE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The best of each block, as infinite where one of it is no number."""
    program = tl.program_id(0)
    token = program * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab_size
    score = tl.load(scores + token, mask=inside, other=float("-inf"))
    stream = _split_mix_64(tl.load(seed), tl.zeros((), tl.int64) + position)
    bits = _split_mix_64(stream, token.to(tl.int64))
    uniform = (((bits >> 12) & 0xFFFFFFFFFFFFF).to(tl.float64) + 0.5) * 2.220446049250313e-16
    drawn = score + (-tl.log(-tl.log(uniform))).to(tl.float32)
    if CUTS:
        parts = tl.arange(0, WIDTH)
        most = tl.max(tl.load(highest + parts, mask=parts < programs, other=float("-inf")), 0)
        stays = tl.where(score < most, tl.exp(score - most), 1.0) >= min_p
        if SELECTS:
            key, above, enough, lowest = _narrowed(
                sums, state, number - 1, top_k, top_p, shift_before, BY_WEIGHT_BEFORE, False
            )
            stays = stays & (_key(score, token) >= key)
        drawn = tl.where(stays, drawn, float("-inf"))
    no_number = tl.max((((score != score) | (score == float("inf"))) & inside).to(tl.int32), 0)
    drawn = tl.where(inside & (score == score), drawn, float("-inf"))
    tl.store(best + program, tl.where(no_number > 0, float("inf"), tl.max(drawn, 0)))
    tl.store(ids + program, (program * BLOCK + tl.argmax(drawn, 0)).to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def _take_best(best, ids, token, programs, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    parts = tl.arange(0, WIDTH)
    found = tl.load(best + parts, mask=parts < programs, other=float("-inf"))
    highest = tl.max(found, 0)
    chosen = tl.load(ids + tl.argmax(found, 0))
    tl.store(token, tl.where(tl.abs(highest) < float("inf"), chosen, -1))
