"""The bare engine in a process of its own: no Redis, no queue, no text leaves it.

Reads a number of tokens a line on stdin, and answers each with the tokens per second of one generation.
"""

import sys
import time
from pathlib import Path

import torch

from producer.contract import GenerationRequest
from worker.engine.engine import Engine
from worker.engine.loading.device import resolve_device


def main(folder: str, prompt: str) -> None:
    """Serve measurements until stdin ends."""
    torch.set_num_threads(1)
    engine = Engine.load(Path(folder), resolve_device("cpu"))
    for line in sys.stdin:
        tokens = int(line)
        request = GenerationRequest(prompt=prompt, max_new_tokens=tokens, ignore_eos=True, prompt_lookup=False)
        generation = engine.start(request, engine.encode(request), seed=0)
        next(generation)
        first = time.perf_counter()
        for _ in generation:
            pass
        print((tokens - 1) / (time.perf_counter() - first), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
