"""A draw from a whole vocabulary, without top_k and top_p: min_p, noise and the argmax, without waiting.

With top_k or top_p torch sorts: a selection by radix took longer (see tests/benchmarks/README.md).
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, ANN202, N803, PLR0917, PLR0124

import torch
import triton
import triton.language as tl
from torch import Tensor

from producer.contract import SamplingParams

from ...errors import NotSupported
from ..noise import GumbelNoise
from ..processors import apply, build_cutoffs, is_greedy

_BLOCK = 2048
"""Tokens of a program."""


class Draw:
    """Of one job."""

    def __init__(self, params: SamplingParams, seed: int, device: torch.device) -> None:
        self._min_p = float(params.min_p)
        self._seed = torch.tensor([seed], dtype=torch.int64, device=device)
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def can(params: SamplingParams) -> bool:
        """Whether the request leaves its tokens to noise and min_p alone."""
        return not (is_greedy(params) or params.top_k or params.top_p < 1)

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
        cuts = self._min_p > 0
        if cuts:
            _find_highest[(programs,)](scores, highest, vocab_size, _BLOCK)
        _add_noise[(programs,)](
            scores, highest, vocab_size, self._min_p, self._seed, position, best, ids, programs, width, cuts,
            _BLOCK,
        )  # fmt: skip
        token = torch.empty((1, 1), dtype=torch.int64, device=scores.device)
        _take_best[(1,)](best, ids, token, programs, width)
        return token


@torch.inference_mode()
def check(device: torch.device) -> None:
    """Compare with torch's way on this very card.  Raises NotSupported where they differ."""
    generator = torch.Generator(device).manual_seed(0)
    for fields in ({}, {"min_p": 0.01}):
        params = SamplingParams(temperature=1.0, **fields)
        draw, cutoffs, noise = Draw(params, 1, device), build_cutoffs(params), GumbelNoise(1, device)
        for position in range(4):
            scores = 3 * torch.randn((1, 5000), generator=generator, device=device)
            expected = apply(cutoffs, scores.new_empty((1, 0)), scores) + noise(position, 5000)
            if not torch.equal(draw(scores, position), expected.argmax(-1, keepdim=True)):
                raise NotSupported(f"a draw with {fields or 'noise alone'} is another one on this GPU")


@triton.jit  # type: ignore[untyped-decorator]
def _find_highest(scores, highest, vocab_size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of each block."""
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(scores + at, mask=at < vocab_size, other=float("-inf"))
    tl.store(highest + program, tl.max(found, 0))


@triton.jit
def _split_mix_64(seed, index):  # type: ignore[no-untyped-def]
    """As `noise.split_mix_64`."""
    z = seed + (index + 1) * -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@triton.jit(do_not_specialize=["position"])  # type: ignore[untyped-decorator]
def _add_noise(  # type: ignore[no-untyped-def]
    scores,
    highest,
    vocab_size,
    min_p,
    seed,
    position,
    best,
    ids,
    programs,
    WIDTH: tl.constexpr,
    CUTS: tl.constexpr,
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
