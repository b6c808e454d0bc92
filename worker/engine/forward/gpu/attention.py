"""Attention of a decode step: each row over as much of the cache as it sees, which is data and not a shape.

The keys of a row are split among many programs, each of which attends to its part (flash attention); a second
kernel joins the parts. How long a part is, a program finds out from the number of keys: one captured step serves
every length and needs no mask. Query heads that share a key-value head are the rows of one product.

On an H200 with Qwen2-7B's heads it takes 5.7 µs after 500 tokens and 13 µs after 8,000; torch's own split-KV flash
kernel takes 9.9 and 25 µs.
    python -m tests.benchmarks.products
Source: Flash-Decoding, T. Dao, D. Haziza, F. Massa, G. Sizov, 2023.
"""

# Triton's functions take pointers and numbers without annotations, and constants by names in capitals.
# ruff: noqa: ANN001, N803, PLR0917

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from ..agreement import require_agreement

_SPLITS = 32
"""Parts of a single row: with four key-value heads, as many programs as a large GPU has multiprocessors."""
_SPLITS_OF_SEVERAL = 16
_TILE_BYTES = 16_384
"""Of keys that are read at once, for a single row; half of it for several, which keep each other busy."""


def attend(query: Tensor, keys: Tensor, values: Tensor, used: Tensor, scale: float) -> Tensor:
    """query: (rows, query_heads, head_dim).  keys, values: (kv_heads, capacity, head_dim), contiguous both.

    used: (rows,) int32, how many keys each row sees, at least one.  Returns (rows, query_heads * head_dim).
    """
    rows, query_heads, head_dim = query.shape
    kv_heads = len(keys)
    single = rows == 1
    splits = _SPLITS if single else _SPLITS_OF_SEVERAL
    width = triton.next_power_of_2(head_dim)
    tile = max((_TILE_BYTES if single else _TILE_BYTES // 2) // (width * keys.itemsize), 16)
    parts = torch.empty((rows, query_heads, splits, head_dim), dtype=torch.float32, device=query.device)
    weights = torch.empty((2, rows, query_heads, splits), dtype=torch.float32, device=query.device)
    _attend_to_part[(kv_heads, splits, rows)](
        query,
        keys,
        values,
        used,
        parts,
        weights,
        scale,
        keys.shape[1],
        query.stride(0),
        query.stride(1),
        query_heads,
        query_heads // kv_heads,
        max(triton.next_power_of_2(query_heads // kv_heads), 16),  # tensor cores take no fewer
        splits,
        head_dim,
        width,
        tile,
        num_warps=4 if single else 2,
    )
    out = torch.empty((rows, query_heads * head_dim), dtype=query.dtype, device=query.device)
    _join_parts[(rows * query_heads,)](parts, weights, out, rows * query_heads, splits, head_dim, width)
    return out


@torch.inference_mode()
def check(device: torch.device, dtype: torch.dtype, query_heads: int, kv_heads: int, head_dim: int) -> None:
    """Compare with torch's attention in float32 on this very card.  Raises NotSupported where they differ."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    lengths = [1, 700, 4096]
    query = random(len(lengths), query_heads, head_dim)
    keys, values = (random(kv_heads, max(lengths), head_dim) for _ in range(2))
    used = torch.tensor(lengths, dtype=torch.int32, device=device)
    for rows in (slice(0, 3), slice(1, 2)):  # several rows, and one
        attended = attend(query[rows], keys, values, used[rows], head_dim**-0.5)
        for found, row, length in zip(attended, query[rows], lengths[rows], strict=True):
            expected = functional.scaled_dot_product_attention(
                row.view(1, kv_heads, -1, head_dim).float(),
                keys[None, :, :length].float(),
                values[None, :, :length].float(),
            ).flatten()
            require_agreement(f"attention to {length} tokens", found, expected)


@triton.jit  # type: ignore[untyped-decorator]
def _attend_to_part(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    used,
    parts,
    weights,
    SCALE: tl.constexpr,  # a compiler would hand it over as float64
    capacity,  # changes from start to start, with the memory that is free: a constant would be compiled each time
    QUERY_ROW: tl.constexpr,  # strides
    QUERY_HEAD: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads of a key-value head
    PADDED_GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,  # head_dim, padded
    TILE: tl.constexpr,
) -> None:
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(used + row)
    part_length = tl.cdiv(tl.cdiv(length, TILE), SPLITS) * TILE
    start = split * part_length
    end = tl.minimum(start + part_length, length)

    group, tokens, dims = tl.arange(0, PADDED_GROUP), tl.arange(0, TILE), tl.arange(0, WIDTH)
    in_group, in_head = group < GROUP, dims < HEAD_DIM
    heads = head * GROUP + group
    at = query + row * QUERY_ROW + heads[:, None] * QUERY_HEAD + dims[None, :]
    rows = tl.load(at, mask=in_group[:, None] & in_head[None, :], other=0)

    highest = tl.full((PADDED_GROUP,), float("-inf"), tl.float32)
    total = tl.zeros((PADDED_GROUP,), tl.float32)
    attended = tl.zeros((PADDED_GROUP, WIDTH), tl.float32)
    for first in tl.range(start, end, TILE, num_stages=3):
        token = first + tokens
        seen = token < end
        where = (head.to(tl.int64) * capacity + token[:, None]) * HEAD_DIM + dims[None, :]
        mask = seen[:, None] & in_head[None, :]
        key = tl.load(keys + where, mask=mask, other=0)
        value = tl.load(values + where, mask=mask, other=0)
        # Scores are float32: those of real models reach thousands. "ieee": float32 is not rounded to tf32.
        scores = tl.dot(rows, tl.trans(key), input_precision="ieee") * SCALE
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        factors = tl.exp(scores - new_highest[:, None])
        kept = tl.exp(highest - new_highest)
        total = total * kept + tl.sum(factors, 1)
        attended = attended * kept[:, None] + tl.dot(factors.to(value.dtype), value, input_precision="ieee")
        highest = new_highest

    part = (row * HEADS + heads) * SPLITS + split
    tl.store(parts + part[:, None] * HEAD_DIM + dims[None, :], attended, mask=in_group[:, None] & in_head[None, :])
    tl.store(weights + part, highest, mask=in_group)
    tl.store(weights + tl.num_programs(2) * HEADS * SPLITS + part, total, mask=in_group)


@triton.jit  # type: ignore[untyped-decorator]
def _join_parts(  # type: ignore[no-untyped-def]
    parts, weights, out, COUNT: tl.constexpr, SPLITS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr
) -> None:
    head = tl.program_id(0)  # of all rows
    part, dims = head * SPLITS + tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    in_head = dims < HEAD_DIM
    highest, total = tl.load(weights + part), tl.load(weights + COUNT * SPLITS + part)
    # A part beyond the end has seen nothing: its highest score is -inf, and its weight 0.
    weight = tl.exp(highest - tl.max(highest, 0))
    attended = tl.load(parts + part[:, None] * HEAD_DIM + dims[None, :], mask=in_head[None, :], other=0)
    joined = tl.sum(attended * weight[:, None], 0) / tl.sum(total * weight, 0)
    tl.store(out + head * HEAD_DIM + dims, joined.to(out.dtype.element_ty), mask=in_head)
