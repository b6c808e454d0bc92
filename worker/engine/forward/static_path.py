"""The fast path: our own forward pass, over a cache that is allocated once.

A decode step is compiled layer by layer (one small compilation for all layers), and on a GPU captured in CUDA
graphs, one for each range of lengths, so that a short sequence does not pay for reading an empty cache. Prefill
runs as it is: with many rows the products are what takes the time, and nothing in it depends on static shapes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from ...progress import ReportProgress
from .architecture import describe
from .decoder import Decoder, View, head, matrix_vector, row_through_layer
from .kv_cache import StaticKVCache

_SMALLEST_RANGE = 256


class StaticPath:
    """See `path.ForwardPath`."""

    name = "static"
    rolls_back = True

    def __init__(self, model: PreTrainedModel, capacity: int, device: torch.device, *, ranges: bool) -> None:
        """`ranges`: let a step see a range that is rounded up, behind a mask, as a captured step must.

        Raises NotSupported for a model that `architecture` does not know, before anything is allocated.
        """
        self.capacity = capacity
        self.device = device
        self.compiled = self.captured = False
        architecture = describe(model, capacity)  # first: a cache that cannot be used takes gigabytes
        shape = architecture.layers[0]
        self.cache = StaticKVCache(
            (len(architecture.layers), shape.kv_heads, capacity, shape.head_dim), model.dtype, device
        )
        self._model = Decoder(model, architecture, self.cache)
        self._ranges = ranges
        self._token = torch.zeros((1, 1), dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._positions = torch.arange(capacity, device=device)
        self._through_layer: Callable[..., Tensor] = partial(row_through_layer, linear=functional.linear)
        self._to_logits: Callable[..., Tensor] = partial(head, linear=functional.linear)
        self._step: Callable[[int], Tensor] = self._run_step

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        self.cache.truncate(length)

    def piece_end(self, done: int, prompt_tokens: int, length: int, chunk: int) -> int:  # noqa: ARG002
        """After `chunk` tokens more: this may be anywhere."""
        return min(done + chunk, length)

    @torch.inference_mode()
    def read(self, ids: Tensor, *, rows: int = 1) -> Tensor:
        """ids: (1, seq_len) int64.  Logits of the last `rows`, (rows, vocab) float32."""
        if ids.shape[1] == 1 and self.length:  # a step that sees a single token would be compiled for it alone
            return self.decode(ids)
        start = self.cache.grow(ids.shape[1])
        return self._model.read(ids[0], start, rows)

    @torch.inference_mode()
    def decode(self, token: Tensor) -> Tensor:
        """token: (1, 1) int64.  Logits, (1, vocab) float32."""
        position = self.cache.grow(1)
        self._token.copy_(token)
        self._position.fill_(position)
        return self._step(self._visible(position + 1))

    def compile(self) -> None:
        """Compile the decode step.  Raises whatever the compiler raises, which is many things."""
        options: dict[str, Any] = {"compile_threads": 1}  # a pool of processes would outlive its use
        if self._token.is_cuda:
            options["coordinate_descent_tuning"] = True  # turns a matrix-vector product into a tuned reduction
        eager = self._through_layer, self._to_logits
        self._through_layer = torch.compile(partial(row_through_layer, linear=matrix_vector), options=options)
        self._to_logits = torch.compile(partial(head, linear=matrix_vector), options=options)
        try:
            self._warm_up()
        except Exception:
            self._through_layer, self._to_logits = eager
            raise
        self.compiled = True

    def capture(self, progress: ReportProgress) -> None:
        """Capture the decode step in a CUDA graph for each range of lengths."""
        ranges = self._all_ranges()
        self._warm_up()  # a library that initializes itself while it is captured would spoil the capture
        pool = torch.cuda.graph_pool_handle()
        steps: dict[int, Callable[[], Tensor]] = {}
        for visible in reversed(ranges):  # the longest first: the others fit into its memory
            steps[visible] = _captured(partial(self._run_step, visible), pool)
            progress("capturing CUDA graphs", len(steps), len(ranges))
        self._step = lambda visible: steps[visible]()
        self.captured = True

    @torch.inference_mode()
    def _warm_up(self) -> None:
        # The compiler takes the first length for a constant, and learns from the second that it is none.
        # It tunes the second one, for all lengths: the ranges come longest first.
        for visible in reversed(self._all_ranges()) if self._ranges else (2, 3, 4):
            self._position.fill_(visible - 1)
            self._run_step(visible)

    def _visible(self, length: int) -> int:
        """How far a step at that length looks: to its end, or to the end of a range that is at most a quarter
        longer, or 256 tokens."""
        if not self._ranges:
            return length
        step = max(_SMALLEST_RANGE, 1 << max(length.bit_length() - 3, 0))
        return min(-(-length // step) * step, self.capacity)

    def _all_ranges(self) -> list[int]:
        return sorted({self._visible(length) for length in range(1, self.capacity + 1)})

    def _run_step(self, visible: int) -> Tensor:
        model = self._model
        hidden = model.embed(self._token[0])
        rotation = model.rotation(self._position)
        view = View(visible, self._mask(visible) if self._ranges else None)
        for layer in model.layers:
            hidden = self._through_layer(hidden, layer, rotation, self._position, view)
        return self._to_logits(hidden, model.ends)

    def _mask(self, visible: int) -> Tensor:
        """(visible,) float32: 0 up to the position, and -inf behind it."""
        mask = torch.zeros(visible, device=self._position.device)
        return mask.masked_fill_(self._positions[:visible] > self._position, float("-inf"))


def _captured(step: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
    """A step that is replayed with one launch; what it returns is overwritten by the next replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph, pool=pool):
        logits = step()

    def replay() -> Tensor:
        """Logits, (1, vocab) float32."""
        graph.replay()
        return logits

    return replay
