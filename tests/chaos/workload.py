"""The requests of the storm, and how each ends when nothing disturbs it.

The reference is the engine in this process: no Redis, no RQ, no second attempt. The checker sees what it gave.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

from producer.contract import GenerationRequest
from worker.standalone import load_engine

PROMPTS = (
    "你好，介绍一下你自己",
    "Hello, introduce yourself",
    "What survives a kill -9?",
    "工作进程被杀掉会怎么样？",
    "What is a KV cache?",
    "怎么取消一个任务？",
    "How do I stream tokens?",
    "😀🌱 genqueue 是什么？",
)

STOPS = ((), (), (), ("genqueue", "the whole"), ("缓存",), ("🔧 ", "。\n"))
"""Most requests have none; some have one that comes, and some one of which only the beginning comes."""


STRUCTURES: tuple[dict[str, Any], ...] = (
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "jobs",
                "schema": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "prompt": {"type": "string", "maxLength": 20},
                            "tokens": {"type": "integer", "minimum": 0, "maximum": 900},
                            "state": {"enum": ["queued", "running", "finished"]},
                        },
                        "required": ["prompt", "tokens", "state"],
                        "additionalProperties": False,
                    },
                    "minItems": 20,
                },
            },
        }
    },
    {"grammar": {"type": "regex", "regex": "([a-z]{3,9} (kill|cancel) -[0-9]; ){9,90}"}},
)
"""An answer that keeps to one of these is replayed through it by whoever goes on with the job."""


class Reference(NamedTuple):
    """How a request ends in an undisturbed run."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    stop: str | None


class Workload:
    """A pool of requests, drawn once from the seed: greedy and sampled, short and long, with and without stops."""

    def __init__(self, rng: random.Random, model_paths: Path, *, size: int) -> None:
        self._engine = load_engine("tiny", "cpu", model_paths=model_paths, progress=False)
        self._known: dict[tuple[str, int], Reference] = {}
        self.requests = [self._draw(rng) for _ in range(size)]

    @staticmethod
    def _draw(rng: random.Random) -> dict[str, Any]:
        request: dict[str, Any] = {
            "prompt": rng.choice(PROMPTS),
            "max_new_tokens": rng.choice((5, 100, 400, 700, 900)),
            "ignore_eos": rng.random() < 0.9,
        }
        if rng.random() < 0.7:
            request |= {"temperature": rng.choice((0.7, 1.0, 1.5)), "top_p": rng.choice((1.0, 0.95))}
            if rng.random() < 0.8:  # the others get their seed from the first attempt
                request["seed"] = rng.randrange(2**31)
        if rng.random() < 0.3:
            request |= {"repetition_penalty": 1.1, "frequency_penalty": 0.2}
        if rng.random() < 0.25:
            request |= {**rng.choice(STRUCTURES), "ignore_eos": False}
        if stop := rng.choice(STOPS):
            request["stop"] = list(stop)
        return request

    def long(self, seed: int) -> dict[str, Any]:
        """A request that takes a second or more, and never ends by itself."""
        return {"prompt": PROMPTS[2], "max_new_tokens": 900, "ignore_eos": True, "temperature": 1.0, "seed": seed}

    def reference(self, request: dict[str, Any], seed: int) -> Reference:
        """How the request ends in peace.  seed: the request's own, or the one that the job was given."""
        if not request.get("temperature"):
            seed = 0  # a greedy request ends in the same way with each: it is worked out once
        key = (repr(request), seed)
        if key not in self._known:
            parsed = GenerationRequest.parse(request)
            steps = list(self._engine.start(parsed, self._engine.encode(parsed), seed=seed))
            self._known[key] = Reference(
                "".join(step.text for step in steps),
                tuple(step.token_id for step in steps),
                str(steps[-1].finish_reason),
                steps[-1].stop,
            )
        return self._known[key]
