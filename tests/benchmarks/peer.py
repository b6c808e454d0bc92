"""The peer: what a user would write in an hour. RQ's SimpleWorker, transformers' `generate`, and a streamer that
PUBLISHes each token. It has no streams, no resume, no cancel and no bounds; it is there to be compared with.

    python -m tests.benchmarks.peer REDIS_URL MODEL_FOLDER
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import get_current_job
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

QUEUE = "peer"


class PublishStreamer(BaseStreamer):
    """Publishes each new token on the job's channel."""

    def __init__(self, redis: Redis, channel: str, tokenizer: Any) -> None:
        self.redis, self.channel, self.tokenizer = redis, channel, tokenizer
        self.is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.is_prompt:
            self.is_prompt = False
            return
        [token_id] = value.tolist()
        message = {"ids": [token_id], "text": self.tokenizer.decode([token_id])}
        self.redis.publish(self.channel, json.dumps(message))

    def end(self) -> None:
        self.redis.publish(self.channel, json.dumps({"end": True}))


class Model:
    """Loaded once, before the first job."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path) -> None:
        cls.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        cls.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()


def generate(prompt: str, max_new_tokens: int) -> str:
    """The job."""
    job = get_current_job()
    assert job is not None
    inputs = Model.tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        output = Model.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            min_new_tokens=max_new_tokens,
            do_sample=False,
            streamer=PublishStreamer(job.connection, f"peer:{job.id}", Model.tokenizer),
        )
    return str(Model.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main(redis_url: str, folder: str) -> None:
    """Work until killed."""
    logging.getLogger("rq").setLevel(logging.WARNING)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    Model.load(Path(folder))
    redis = Redis.from_url(redis_url)
    SimpleWorker([Queue(QUEUE, connection=redis)], connection=redis).work(logging_level="WARNING")


if __name__ == "__main__":
    # As the module that RQ will import the job from, and not as __main__: the model must be the same one.
    from tests.benchmarks import peer  # noqa: PLW0406

    peer.main(*sys.argv[1:])
