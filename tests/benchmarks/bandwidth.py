"""How fast a device reads its memory: what no engine can pass, as each token takes one read of all weights."""

import contextlib
import mmap
import time
from collections.abc import Callable

import torch

MEASURED_BYTES = 2**30


def measure_bandwidth(device: torch.device) -> float:
    """Bytes a second: of a copy within a GPU, which reads and writes; on a CPU, of a read by all threads."""
    if device.type == "cuda":
        copied = torch.ones(MEASURED_BYTES // 4, device=device)
        target = torch.empty_like(copied)

        def copy() -> None:
            target.copy_(copied)
            torch.cuda.synchronize(device)

        return 2 * MEASURED_BYTES / fastest(copy, 20)
    source = _in_large_pages()
    # A sum waits for its additions where the memory is fast; the largest number takes as long as the read.
    return MEASURED_BYTES / min(fastest(read, 5) for read in (source.max, source.sum))


def _in_large_pages() -> torch.Tensor:
    """Numbers in pages of 2 MiB, where the system has them: pages of 4 KiB cost a read up to a third."""
    memory = mmap.mmap(-1, MEASURED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).fill_(1)


def fastest(action: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(times):
        started_at = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started_at)
    return best
