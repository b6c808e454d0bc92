"""A worker that answers at once: through the ledger's own steps, without an engine.

    python -m tests.instant_worker URL [--model tiny]

A prompt's answer is the prompt, backwards, a token a character. One that begins with `fail` fails.
"""

import argparse
import contextlib
import json
import threading
import time
import zlib

import redis

from producer.contract import (
    BEFORE_FIRST,
    Entry,
    ErrorInfo,
    EventId,
    GenerationResult,
    Keys,
    Started,
    StartedData,
    TokenLogprob,
    Tokens,
    TokensData,
    terminal_event,
)
from producer.contract.assemble import assemble
from producer.contract.compatibility import PUBLISHED_FIELDS
from producer.ledger import rq_names
from producer.ledger.stream import Appender
from producer.ledger.take import Taken, put_down, take

KEEP_S = 30
"""So long are ended jobs kept: of 200,000 a server on a small machine has no room for all."""


def answer_to(prompt: str) -> str:
    """What it says."""
    return prompt[::-1]


class InstantWorker:
    """Serves one model, on a thread or in a process of its own.  pause_s: before each job."""

    def __init__(
        self, client: redis.Redis, *, model: str = "tiny", name: str = "instant", pause_s: float = 0
    ) -> None:
        self.client, self.model, self.name, self.pause_s = client, model, name, pause_s
        self.keys = Keys()
        self.jobs: list[str] = []
        """Ids of those that it has taken, where `remembers`."""
        self.remembers = True
        self._over = threading.Event()

    def register(self) -> None:
        """Appear among the live workers of the model."""
        key = rq_names.worker(self.name)
        known = ",".join(sorted(PUBLISHED_FIELDS))
        record = {"birth": "2026-01-01T00:00:00Z", "model_state": "ready", "request_fields": known}
        self.client.hset(key, mapping=record)
        for queue in self.keys.queues(self.model):
            self.client.sadd(rq_names.workers(queue), key)

    def step(self) -> bool:
        """One job, if there is one."""
        known = take(self.keys, self.name, self.model, known=(), list_ttl_s=KEEP_S, max_bytes=2**25).run(
            self.client
        )
        if not isinstance(known, Taken):
            return False
        if self.remembers:
            self.jobs.append(known.job_id)
        self._answer(known)
        put_down(self.keys, self.name, known.job_id).run(self.client)
        self.client.expire(rq_names.job(known.job_id), KEEP_S)
        return True

    def run(self) -> None:
        """Until stopped, through restarts of the server."""
        while not self._over.wait(self.pause_s):
            with contextlib.suppress(redis.RedisError):
                self.register()
                while not self._over.is_set() and self.step():
                    self._over.wait(self.pause_s)
            self._over.wait(0.002)

    def stop(self) -> None:
        """End `run`."""
        self._over.set()

    def _answer(self, taken: Taken) -> None:
        request = json.loads(zlib.decompress(taken.raw[b"data"]))[3]["request"]
        result, events = self._play(taken.job_id, request)
        entries = [Entry.of(EventId(1, seq), event) for seq, event in enumerate([*events, terminal_event(result)])]
        appender = Appender(self.keys, taken.job_id, self.name, as_owner=True)
        step = appender.append(BEFORE_FIRST, entries, ttl_s=KEEP_S, result=result.model_dump_json())
        step.run(self.client)

    def _play(self, job_id: str, request: dict) -> tuple[GenerationResult, list[Started | Tokens]]:
        messages = request.get("messages")
        prompt = messages[-1]["content"] if messages else request.get("prompt", "")
        said = StartedData(attempt=1, worker=self.name, model=self.model, prompt_tokens=len(prompt), seed=7)
        if prompt.startswith("fail"):
            error = ErrorInfo(code="engine_error", message="as asked")
            events: list[Started | Tokens] = [Started(data=said)]
            return assemble(
                job_id, self.model, events, status="failed", finish_reason="error", error=error
            ), events
        text = answer_to(prompt)[: request.get("max_new_tokens")]
        ids = tuple(map(ord, text))
        top = request.get("logprobs")
        logprobs = (
            None if top is None else tuple(TokenLogprob(logprob=-0.5, top=((each, -0.5),) * top) for each in ids)
        )
        events = [Started(data=said), Tokens(data=TokensData(index=0, ids=ids, text=text, logprobs=logprobs))]
        is_cut = len(text) < len(prompt)
        result = assemble(
            job_id, self.model, events, status="finished", finish_reason="length" if is_cut else "stop"
        )
        return result, events


def main() -> None:
    """Until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--pause-s", type=float, default=0.0)
    options = parser.parse_args()
    with redis.Redis.from_url(options.url) as client:
        worker = InstantWorker(client, model=options.model, pause_s=options.pause_s)
        worker.remembers = False
        while True:
            worker.run()
            time.sleep(0.01)


if __name__ == "__main__":
    main()
