"""Mistakes that one makes with streams and captures, to be planted one at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worker.engine.forward import static_path
from worker.engine.forward.decoder import View
from worker.engine.forward.host_copy import HostCopy
from worker.engine.forward.kv_cache import StaticKVCache
from worker.engine.forward.static_path import StaticPath
from worker.engine.generation import Generation
from worker.engine.sampling.token_mask import TokenMask
from worker.engine.token_ring import MAX_IN_FLIGHT, TokenRing

run_step = StaticPath._run_step
copy_in = StaticKVCache.copy_in
spread_bits = TokenMask.bias


def pop_at_once(self: TokenRing) -> int:
    token, _ = self._in_flight.popleft()
    return int(token)


def push_after_its_event(self: TokenRing, token: Tensor) -> None:
    slot, copied = self._slots[self._next], self._copied[self._next]
    self._next = (self._next + 1) % MAX_IN_FLIGHT
    copied.record()
    slot.copy_(token, non_blocking=True)
    self._in_flight.append((slot, copied))


def push_into_one_slot(self: TokenRing, token: Tensor) -> None:
    slot, copied = self._slots[0], self._copied[0]
    slot.copy_(token, non_blocking=True)
    copied.record()
    self._in_flight.append((slot, copied))


def step_that_reads(self: StaticPath, rows: int, visible: int) -> Tensor:
    int(self._start)
    return run_step(self, rows, visible)


def step_by_reference(self: StaticPath, ids: Tensor, start: int) -> Tensor:
    self._ids = ids
    self._start.fill_(start)
    return self._captured[len(ids), self._visible(self.length)]()


def step_at_a_new_place(self: StaticPath, ids: Tensor, start: int) -> Tensor:
    self._ids[: len(ids)] = ids
    self._start = torch.tensor([start], device=self.device)
    return self._captured[len(ids), self._visible(self.length)]()


def view_of_the_whole_cache(visible: int, used: Tensor, mask: Tensor | None) -> View:
    return View(visible, torch.full_like(used, visible), mask)


def mask_from_the_host(self: StaticPath, visible: int) -> Tensor:
    return torch.zeros(visible).pin_memory().to(self.device, non_blocking=True)


def run_ahead_always(self: Generation) -> bool:
    return len(self._chooser) <= self._engine.lookahead and self._tokens.room > len(self._chooser)


def captured_without_its_result(step: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        form = step().clone().shape

    def replay() -> Tensor:
        graph.replay()
        return torch.empty(form, device="cuda")

    return replay


def copy_in_beside(self: StaticKVCache, kept: HostCopy, length: int) -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        copy_in(self, kept, length)


def bias_whose_bits_are_written_over(self: TokenMask) -> Tensor:
    bias = spread_bits(self)
    self.words[:] = 0
    return bias


MASK = "the mask is the host's"
MISTAKES: dict[str, tuple[Any, str, Any]] = {
    "a token is read before its copy is done": (TokenRing, "pop", pop_at_once),
    "an event stands before the copy it is for": (TokenRing, "push", push_after_its_event),
    "tokens in flight share a slot": (TokenRing, "push", push_into_one_slot),
    "the host reads the device in a capture": (StaticPath, "_run_step", step_that_reads),
    "the token is not copied to where the graph reads it": (StaticPath, "_step", step_by_reference),
    "nor is its position": (StaticPath, "_step", step_at_a_new_place),
    "the number of keys is that of the capture": (static_path, "View", view_of_the_whole_cache),
    MASK: (StaticPath, "_mask", mask_from_the_host),
    "a step runs ahead of logprobs": (Generation, "_may_run_ahead", run_ahead_always),
    "the result is read from another tensor than the graph's": (
        static_path,
        "_captured",
        captured_without_its_result,
    ),
    "parked keys are used before they have come": (StaticKVCache, "copy_in", copy_in_beside),
    "what may come is written over before it was copied": (TokenMask, "bias", bias_whose_bits_are_written_over),
}
"""What is wrong, and what to put where."""
