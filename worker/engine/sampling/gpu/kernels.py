"""Triton's kernels of a draw, in the order in which `draw` launches them.

The first axis of a grid are blocks of tokens, the second one rows; `find_cut` and `take_best` have rows alone.
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0917, PLR0124, SIM108
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def find_highest(scores, highest, sums, collected, cuts, vocab_size, DEPTHS: tl.constexpr, BLOCK: tl.constexpr):
    """Of each block; and make 0 what is summed, counted and found later."""
    program, row = tl.program_id(0), tl.program_id(1)
    token = program * BLOCK + tl.arange(0, BLOCK)
    score = tl.load(scores + row * vocab_size + token, mask=token < vocab_size, other=float("-inf"))
    tl.store(highest + row * tl.num_programs(0) + program, tl.max(score, 0))
    if program == 0:
        tl.store(sums + row * DEPTHS + tl.arange(0, DEPTHS), tl.zeros((DEPTHS,), tl.int64))
        tl.store(collected + row, 0)
        tl.store(cuts + row, 0)


@triton.jit
def _highest_of(highest, row, programs, WIDTH: tl.constexpr):
    parts = tl.arange(0, WIDTH)
    return tl.max(tl.load(highest + row * programs + parts, mask=parts < programs, other=float("-inf")), 0)


@triton.jit
def _weight(score, most):
    """What stands for a probability, as an integer: in any order, the sum is the same."""
    exponential = tl.where(score < most, tl.exp(score - most), 1.0)  # where it is no number, either
    return (exponential * 1099511627776.0).to(tl.int64)


@triton.jit
def _key(score, token):
    """56 bits in the order of scores, and of ids behind these."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # minus 0 is 0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648
    return (ordered << 24) | token.to(tl.int64)


@triton.jit
def _score_of(key):
    ordered = ((key >> 24) - 2147483648).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def sum_by_depth(
    scores,
    highest,
    depths,
    sums,
    vocab_size,
    WIDTH: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
    DEPTHS: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """How many tokens lie no deeper below the highest score than each depth, or what they weigh."""
    program, row = tl.program_id(0), tl.program_id(1)
    most = _highest_of(highest, row, tl.num_programs(0), WIDTH)
    depth = tl.arange(0, DEPTHS)
    lowest = most - tl.load(depths + depth)
    summed = tl.zeros((DEPTHS, TILE), tl.int64)
    for first in range(0, BLOCK, TILE):
        token = program * BLOCK + first + tl.arange(0, TILE)
        score = tl.load(scores + row * vocab_size + token, mask=token < vocab_size, other=float("nan"))
        if BY_WEIGHT:
            weight = _weight(score, most)
        else:
            weight = tl.full((TILE,), 1, tl.int64)
        summed += tl.where(score[None, :] >= lowest[:, None], weight[None, :], 0)
    total = tl.sum(summed, 1)
    tl.atomic_add(sums + row * DEPTHS + depth, total, mask=total != 0)


@triton.jit
def _enough(total, top_p):
    return tl.maximum(tl.minimum(tl.ceil(total.to(tl.float64) * tl.load(top_p)).to(tl.int64), total), 1)


@triton.jit
def _bounds(depths, sums, row, most, top_k, top_p, BY_WEIGHT: tl.constexpr, DEPTHS: tl.constexpr):
    """Between which two scores the last one that stays lies.

    Returns them; how much stays; and how much of that lies at the upper one and above. With top_k, the upper one
    is infinite: of all that stay, top_p has to know the weights.
    """
    summed = tl.load(sums + row * DEPTHS + tl.arange(0, DEPTHS))
    enough = tl.zeros((), tl.int64) + top_k
    if BY_WEIGHT:
        enough = _enough(tl.max(summed, 0), top_p)
    number = tl.minimum(tl.maximum(tl.sum((summed >= enough).to(tl.int32), 0) - 1, 0), DEPTHS - 2)
    lower = most - tl.load(depths + number)
    upper = tl.full((), float("inf"), tl.float32)
    above = tl.zeros((), tl.int64)
    if BY_WEIGHT:
        upper = most - tl.load(depths + number + 1)
        above = tl.load(sums + row * DEPTHS + number + 1)
    return lower, upper, enough, above


@triton.jit(do_not_specialize=["top_k"])
def collect(
    scores,
    highest,
    depths,
    sums,
    collected,
    keys,
    vocab_size,
    top_k,
    top_p,
    WIDTH: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
    DEPTHS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The keys of all tokens among which the cut lies, in no order."""
    program, row = tl.program_id(0), tl.program_id(1)
    most = _highest_of(highest, row, tl.num_programs(0), WIDTH)
    lower, upper, _, _ = _bounds(depths, sums, row, most, top_k, top_p, BY_WEIGHT, DEPTHS)
    token = program * BLOCK + tl.arange(0, BLOCK)
    score = tl.load(scores + row * vocab_size + token, mask=token < vocab_size, other=float("nan"))
    found = (score >= lower) & (score < upper)
    count = tl.sum(found.to(tl.int32), 0)
    if count > 0:
        place = tl.atomic_add(collected + row, count) + tl.cumsum(found.to(tl.int32), 0) - 1
        tl.store(keys + row.to(tl.int64) * vocab_size + place, _key(score, token), mask=found)


@triton.jit
def _last_that_stays(keys, count, most, low, high, enough, BY_WEIGHT: tl.constexpr, TILE: tl.constexpr):
    """The highest key from low to high at which and above which there is so much.

    By halves; each end moves on to a key that is there, so that a few dozen keys take a few turns.
    """
    while low < high:
        middle = low + (high - low + 1) // 2
        summed = tl.zeros((TILE,), tl.int64)
        above = tl.full((TILE,), 1 << 60, tl.int64)
        below = tl.full((TILE,), -1, tl.int64)
        for first in range(0, count, TILE):
            place = first + tl.arange(0, TILE)
            key = tl.load(keys + place, mask=place < count, other=-1)
            if BY_WEIGHT:
                weight = _weight(_score_of(key), most)
            else:
                weight = tl.full((TILE,), 1, tl.int64)
            is_above = key >= middle
            summed += tl.where(is_above, weight, 0)
            above = tl.where(is_above, tl.minimum(above, key), above)
            below = tl.where(is_above, below, tl.maximum(below, key))
        if tl.sum(summed, 0) >= enough:
            low = tl.min(above, 0)
        else:
            high = tl.max(below, 0)
    return low


@triton.jit(do_not_specialize=["top_k"])
def find_cut(
    highest,
    depths,
    sums,
    collected,
    keys,
    cuts,
    vocab_size,
    programs,
    top_k,
    top_p,
    WIDTH: tl.constexpr,
    BY_COUNT: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
    DEPTHS: tl.constexpr,
    TILE: tl.constexpr,
):
    """The lowest key that stays, of a row."""
    row = tl.program_id(0)
    most = _highest_of(highest, row, programs, WIDTH)
    lower, _, enough, above = _bounds(depths, sums, row, most, top_k, top_p, not BY_COUNT, DEPTHS)
    keys += row.to(tl.int64) * vocab_size
    count = tl.load(collected + row)
    low, high = _key(lower, tl.zeros((), tl.int32)), _key(most, vocab_size - 1)
    if BY_COUNT:
        low = _last_that_stays(keys, count, most, low, high, enough, False, TILE)
        low = (low >> 24) << 24  # all with the last one's score stay
        if BY_WEIGHT:
            summed = tl.zeros((TILE,), tl.int64)
            for first in range(0, count, TILE):
                place = first + tl.arange(0, TILE)
                key = tl.load(keys + place, mask=place < count, other=-1)
                summed += tl.where(key >= low, _weight(_score_of(key), most), 0)
            enough = _enough(tl.sum(summed, 0), top_p)
    if BY_WEIGHT:
        low = _last_that_stays(keys, count, most, low, high, enough - above, True, TILE)
    tl.store(cuts + row, low)


@triton.jit
def _split_mix_64(seed, index):
    """As `noise.split_mix_64`."""
    z = seed + (index + 1) * -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@triton.jit
def _gumbel(seed, position, token):
    """As `noise.GumbelNoise`."""
    stream = _split_mix_64(tl.load(seed), tl.zeros((), tl.int64) + position)
    bits = _split_mix_64(stream, token.to(tl.int64))
    uniform = (((bits >> 12) & 0xFFFFFFFFFFFFF).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return (-tl.log(-tl.log(uniform))).to(tl.float32)


@triton.jit(do_not_specialize=["position"])
def find_best(
    scores,
    highest,
    cuts,
    vocab_size,
    min_p,
    seed,
    position,
    best,
    ids,
    WIDTH: tl.constexpr,
    NOISE: tl.constexpr,
    CUTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The best of what stays of each block, as infinite where one of it is no number."""
    program, row = tl.program_id(0), tl.program_id(1)
    token = program * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab_size
    score = tl.load(scores + row * vocab_size + token, mask=inside, other=float("-inf"))
    stays = inside & (score == score)
    no_number = tl.max((((score != score) | (score == float("inf"))) & inside).to(tl.int32), 0)
    if CUTS:
        most = _highest_of(highest, row, tl.num_programs(0), WIDTH)
        stays = stays & (_key(score, token) >= tl.load(cuts + row))
        stays = stays & (tl.where(score < most, tl.exp(score - most), 1.0) >= min_p)
    place = row * tl.num_programs(0) + program
    if tl.max(stays.to(tl.int32), 0) > 0:
        if NOISE:
            score += _gumbel(seed, position + row, token)
        score = tl.where(stays, score, float("-inf"))
        tl.store(best + place, tl.where(no_number > 0, float("inf"), tl.max(score, 0)))
        tl.store(ids + place, (program * BLOCK + tl.argmax(score, 0)).to(tl.int64))
    else:
        tl.store(best + place, tl.where(no_number > 0, float("inf"), float("-inf")))


@triton.jit
def take_best(best, ids, tokens, programs, WIDTH: tl.constexpr):
    """Of the blocks of a row: its token, or -1."""
    row = tl.program_id(0)
    parts = tl.arange(0, WIDTH)
    found = tl.load(best + row * programs + parts, mask=parts < programs, other=float("-inf"))
    chosen = tl.load(ids + row * programs + tl.argmax(found, 0))
    tl.store(tokens + row, tl.where(tl.abs(tl.max(found, 0)) < float("inf"), chosen, -1))
