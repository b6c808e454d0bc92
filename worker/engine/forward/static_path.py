"""The fast path: our own forward pass, over a cache that is allocated once.

A decode step is compiled layer by layer: one small compilation for all layers. On a GPU it is made of our kernels
and captured in a CUDA graph, and so is the check of a draft, which is a step of several rows. Where the kernels
cannot be had, a captured step sees through a mask, and there is a graph for each range of lengths, so that a short
sequence does not pay for reading an empty cache. On a CPU, the products of a step and of a prompt are those of our
operator. Prefill runs as it is: with many rows the products are what takes the time, and nothing in it depends on
static shapes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...progress import ReportProgress
from ..reuse.prompt_lookup import LONG_DRAFT, SHORT_DRAFT
from .architecture import describe
from .decoder import Decoder, Operations, View, attend, head, step_through_layer
from .kv_cache import StaticKVCache
from .matrices import Linear, linear
from .matrix_vector import matrix_vector, matrix_vector_of_small

_SMALLEST_RANGE = 256
_STEP_ROWS = (1, SHORT_DRAFT + 1, LONG_DRAFT + 1)
"""Tokens of a step: one, or a draft with the token before it, where attention takes several rows."""


class StepFunctions(NamedTuple):
    """What a step goes through."""

    through_layer: Callable[..., Tensor]
    to_logits: Callable[..., Tensor]

    @classmethod
    def of(cls, operations: Operations) -> Self:
        """As Python runs them."""
        return cls(partial(step_through_layer, operations=operations), partial(head, linear=operations.linear))

    def compiled(self, options: dict[str, Any], *, dynamic: bool | None) -> "StepFunctions":
        """As a compiler makes them, when they are called for the first time."""
        return StepFunctions(*(torch.compile(function, options=options, dynamic=dynamic) for function in self))


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
        self.compiled = self.captured = self.has_kernels = False
        architecture = describe(model, capacity)  # first: a cache that cannot be used takes gigabytes
        self._shape = shape = architecture.layers[0]
        self.cache = StaticKVCache(
            (len(architecture.layers), shape.kv_heads, capacity, shape.head_dim), model.dtype, device
        )
        self._model = Decoder(model, architecture, self.cache)
        self._ranges = ranges
        rows = max(_STEP_ROWS)
        self._ids = torch.zeros(rows, dtype=torch.int64, device=device)
        self._ids_of = {rows: self._ids[:rows] for rows in _STEP_ROWS}
        self._start = torch.zeros(1, dtype=torch.int64, device=device)
        self._positions = torch.arange(max(capacity, rows), device=device)
        self._of_one = self._of_several = StepFunctions.of(Operations(linear, attend))
        self._linear_of_one: Linear = matrix_vector
        """On a CPU, for compiled code."""
        self._captured: dict[tuple[int, int], Callable[[], Tensor]] = {}

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
        tokens = ids.shape[1]
        if tokens == 1 and self.length:  # a first token is read: a step with a single key would be compiled anew
            return self.decode(ids)
        start = self.cache.grow(tokens)
        if rows == tokens and (tokens, self._visible(self.length)) in self._captured:
            return self._step(ids[0], start)
        return self._model.read(ids[0], start, rows)

    @torch.inference_mode()
    def decode(self, token: Tensor) -> Tensor:
        """token: (1, 1) int64.  Logits, (1, vocab) float32."""
        return self._step(token[0], self.cache.grow(1))

    def use_kernels(self) -> None:
        """Have a step be made of our kernels; on a CPU, the products of a prompt as well.

        Raises NotSupported where they are not exact here, and whatever Triton or a compiler raises.
        """
        if self.device.type == "cuda":
            self._use_gpu_kernels()
        else:
            self._use_cpu_kernels()

    def _use_cpu_kernels(self) -> None:
        from .cpu import products  # noqa: PLC0415 - takes what torch.compile is made of

        dtype = self.cache.keys.dtype
        if dtype not in products.DTYPES:
            return
        for matrix in self._model.forms():
            products.check(dtype, matrix)
        self._model.linear_of_many = products.Linear()
        self._linear_of_one = products.linear
        self._of_one = self._of_several = StepFunctions.of(Operations(products.linear, attend))

    def _use_gpu_kernels(self) -> None:
        from .gpu import (  # noqa: PLC0415 - Triton is where there is a GPU
            attention,
            matrix_vector as products,
            small_matrix_rows as few_products,
            small_matrix_vector as small_products,
            written_out,
        )

        shape, dtype = self._shape, self.cache.keys.dtype
        products.check(self.device, dtype)
        small = [matrix for matrix in self._model.forms() if not isinstance(matrix, Tensor)]
        for matrix in small:
            small_products.check(self.device, dtype, matrix)
            few_products.check(self.device, dtype, matrix)
        attention.check(self.device, dtype, shape.query_heads, shape.kv_heads, shape.head_dim)

        def attend_by_kernel(query: Tensor, keys: Tensor, values: Tensor, view: View, scale: float) -> Tensor:
            return attention.attend(query, keys, values, cast("Tensor", view.used), scale)

        if small:
            self._model.linear_of_many = written_out.Linear(self.device, dtype)
        self._of_several = StepFunctions.of(Operations(few_products.linear_of_few, attend_by_kernel))
        self._of_one = StepFunctions.of(Operations(small_products.matrix_vector, attend_by_kernel))
        self.has_kernels = True

    def compile(self, *, deterministic: bool = False) -> None:
        """Compile the decode step.  Raises whatever the compiler raises, which is many things.

        deterministic: choose nothing by a measurement that decides in which order a sum is taken.
        """
        # A pool of processes would outlive its use. Looking at sizes at each step costs a CPU 20 us a layer.
        options: dict[str, Any] = {"compile_threads": 1, "size_asserts": False}
        if deterministic:
            options["deterministic"] = True
        before = self._of_one, self._of_several
        if self.has_kernels:  # nothing in a step changes with the length, and kernels want numbers
            for layer in self._model.layers:
                for kept in (layer.keys, layer.values):  # the capacity is another at the next start
                    torch._dynamo.maybe_mark_dynamic(kept, 1)  # noqa: SLF001 - its documented place
            self._of_one = self._of_one.compiled(options, dynamic=False)
            self._of_several = self._of_several.compiled(options, dynamic=False)
        else:
            on_gpu = self.device.type == "cuda"
            operations = Operations(matrix_vector_of_small if on_gpu else self._linear_of_one, attend)
            self._of_one = StepFunctions.of(operations).compiled(options, dynamic=None)
        try:
            self._warm_up()
        except Exception:
            self._of_one, self._of_several = before
            raise
        self.compiled = True

    @torch.inference_mode()
    def capture(self, progress: ReportProgress) -> None:
        """Capture the steps in CUDA graphs."""
        # The most rows and the longest range first: the others fit into the memory of those.
        wanted = [(rows, visible) for rows in self._step_rows() for visible in reversed(self._all_ranges())]
        self._warm_up()  # a library that initializes itself while it is captured would spoil the capture
        pool = torch.cuda.graph_pool_handle()
        captured: dict[tuple[int, int], Callable[[], Tensor]] = {}
        for rows, visible in wanted:
            captured[rows, visible] = _captured(partial(self._run_step, rows, visible), pool)
            progress("capturing CUDA graphs", len(captured), len(wanted))
        self._captured = captured
        self.captured = True

    def _step_rows(self) -> list[int]:
        rows = [rows for rows in _STEP_ROWS if rows <= self.capacity]
        return sorted(rows if self.has_kernels else rows[:1], reverse=True)

    @torch.inference_mode()
    def _warm_up(self) -> None:
        # The compiler takes the first length for a constant, and learns from the second that it is none.
        # It tunes the second one, for all lengths: the ranges come longest first. Without ranges the first is one
        # that no token hangs on: of a step that is there twice, the one that was used last would be taken.
        for rows in self._step_rows():
            for visible in reversed(self._all_ranges()) if self._ranges else (self.capacity, 3, 4):
                self._start.fill_(visible - rows)
                self._run_step(rows, visible)

    def _visible(self, length: int) -> int:
        """How far a step at that length looks: to its end, or to the end of a range that is at most a quarter
        longer, or 256 tokens. Our kernels find the end by themselves."""
        if self.has_kernels:
            return self.capacity
        if not self._ranges:
            return length
        step = max(_SMALLEST_RANGE, 1 << max(length.bit_length() - 3, 0))
        return min(-(-length // step) * step, self.capacity)

    def _all_ranges(self) -> list[int]:
        return sorted({self._visible(length) for length in range(1, self.capacity + 1)})

    def _step(self, ids: Tensor, start: int) -> Tensor:
        """ids: (rows,) int64, for which the cache has grown.  Logits, (rows, vocab) float32."""
        rows = ids.shape[0]
        self._ids_of[rows].copy_(ids)
        self._start.fill_(start)
        visible = self._visible(start + rows)
        if captured := self._captured.get((rows, visible)):
            return captured()
        return self._run_step(rows, visible)

    def _run_step(self, rows: int, visible: int) -> Tensor:
        # Nothing that is not needed: on a CPU, each of these operations costs a small model half a per cent.
        model, functions = self._model, self._of_one if rows == 1 else self._of_several
        positions = self._start if rows == 1 else self._start + self._positions[:rows]
        hidden = model.embed(self._ids_of[rows])
        rotation = model.rotation(positions)
        used = (positions + 1).to(torch.int32) if self.has_kernels else None
        view = View(visible, used, self._mask(visible) if self._ranges and not self.has_kernels else None)
        for layer in model.layers:
            hidden = functions.through_layer(hidden, layer, rotation, positions, view)
        return functions.to_logits(hidden, model.ends)

    def _mask(self, visible: int) -> Tensor:
        """(visible,) float32: 0 up to the position, and -inf behind it."""
        mask = torch.zeros(visible, device=self._start.device)
        return mask.masked_fill_(self._positions[:visible] > self._start, float("-inf"))


def _captured(step: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
    """A step that is replayed with one launch; what it returns is overwritten by the next replay."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool):
            logits = step()
    except BaseException:
        torch.cuda.set_stream(stream)  # torch stays on the stream of a capture that has failed
        raise

    def replay() -> Tensor:
        """Logits, (rows, vocab) float32."""
        graph.replay()
        return logits

    return replay
