"""A long, steady load: nothing may grow, and nobody may be declared dead who is not.

    python -m tests.chaos.soak [--minutes 30] [--jobs-per-minute 120]

Two workers on one server, jobs at a steady pace, each waited for, with results that expire after a minute. Every
few seconds it writes down memory, file descriptors, connections and keys. The first fifth is warm-up, and at least
a result's time; the slope of what follows must be flat. In the end it looks at the keys of ours that are no job's:
each has a time to live, and none holds more than its few members. The last line of stdout is one JSON object; exit
1 on any violation.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.integration.worker_process import WorkerProcess
from tests.models import tiny_model_paths

SAMPLE_S = 5.0
RESULT_TTL_S = 60
WARM_UP_SAMPLES = round((RESULT_TTL_S + 15) / SAMPLE_S)
"""Before them, the first results have not expired."""
MEMORY_GROWTH_LIMIT = 0.03
"""Of a process's resident memory, from the warm-up's end to the end of the run."""
MEMBERS_LIMIT = 8
"""Of a key that is no job's: one for each worker and producer."""
WAKE_LIMIT = 1200
"""Of a producer's wake stream, which is trimmed to about a thousand."""


@dataclass(frozen=True)
class Sample:
    """The state of everything that could grow, at one moment."""

    rss_bytes: tuple[int, ...]
    descriptors: tuple[int, ...]
    connections: int
    keys: int


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def sample(workers: list[WorkerProcess], client: redis.Redis) -> Sample:
    """Look at every process and at the server."""
    pids = [pid for worker in workers for pid in (worker.process.pid, worker.engine_pid())]
    return Sample(
        tuple(map(rss_bytes, pids)), tuple(map(descriptors, pids)), len(client.client_list()), client.dbsize()
    )


def load(
    producer: Producer, client: redis.Redis, workers: list[WorkerProcess], minutes: float, pace_s: float
) -> Any:
    """Jobs at a steady pace.  Returns the samples and the results."""
    samples, results, pending = [], [], []
    prompts = itertools.cycle(["你好，介绍一下你自己", "What is genqueue?", "hi"])
    end = time.monotonic() + minutes * 60
    next_sample = next_job = time.monotonic()
    while (now := time.monotonic()) < end:
        if now >= next_job:
            next_job += pace_s
            tokens = 20 + len(results) % 200
            pending.append(
                producer.submit(
                    next(prompts), model="tiny", max_new_tokens=tokens, ignore_eos=True, result_ttl_s=RESULT_TTL_S
                )
            )
        if now >= next_sample:
            next_sample += SAMPLE_S
            samples.append(sample(workers, client))
        if len(pending) > 2:
            results.append(pending.pop(0).result(timeout_s=60, check=False))
        time.sleep(max(0.0, min(next_job, next_sample) - time.monotonic()))
    results += [job.result(timeout_s=60, check=False) for job in pending]
    return samples, results


def growth(values: list[float]) -> float:
    """Relative growth between the medians of the first and the last fifth after the warm-up."""
    steady = values[max(len(values) // 5, min(WARM_UP_SAMPLES, len(values) // 2)) :]
    fifth = max(1, len(steady) // 5)
    before, after = statistics.median(steady[:fifth]), statistics.median(steady[-fifth:])
    return (after - before) / max(before, 1.0)


_SIZE = {"list": "llen", "set": "scard", "zset": "zcard", "hash": "hlen", "stream": "xlen", "string": "strlen"}


def left(client: redis.Redis, results: list[Any]) -> dict[str, tuple[int, int]]:
    """Our keys that are no job's: how much each holds, and its time to live in seconds; -1 for one that stays."""
    of_jobs = {result.job_id for result in results}
    found = {}
    for key in sorted(each.decode() for each in client.scan_iter("gen:*", count=1000)):
        if key.partition("{")[2].partition("}")[0] not in of_jobs:
            kind = client.type(key).decode()
            if kind != "none":  # it has expired meanwhile
                found[key] = int(getattr(client, _SIZE[kind])(key)), client.ttl(key)
    return found


def _limit(key: str) -> int:
    return WAKE_LIMIT if "{wake:" in key else MEMBERS_LIMIT


def judge(
    samples: list[Sample], results: list[Any], logs: list[str], remaining: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    """What grew, who was wrongly declared dead, and what was left behind."""
    rss = [growth([s.rss_bytes[i] for s in samples]) for i in range(len(samples[0].rss_bytes))]
    fds = [growth([s.descriptors[i] for s in samples]) for i in range(len(samples[0].descriptors))]
    keys = growth([s.keys for s in samples])
    connections = growth([s.connections for s in samples])
    violations = [
        *(f"memory of process {i} grew by {g:.1%}" for i, g in enumerate(rss) if g > MEMORY_GROWTH_LIMIT),
        *(f"descriptors of process {i} grew by {g:.1%}" for i, g in enumerate(fds) if g > 0.1),
        *([f"keys grew by {keys:.1%}"] if keys > 0.1 else []),
        *([f"connections grew by {connections:.1%}"] if connections > 0.2 else []),
        *(
            f"job {r.job_id}: {r.status}, {r.attempts} attempts"
            for r in results
            if (r.status, r.attempts) != ("finished", 1)
        ),
        *("a live worker was declared dead" for log in logs if "is dead" in log),
        *(f"{key} never expires" for key, (_, ttl_s) in remaining.items() if ttl_s == -1),
        *(f"{key} holds {size}" for key, (size, _) in remaining.items() if size > _limit(key)),
    ]
    return {
        "jobs": len(results),
        "samples": len(samples),
        "rss_growth": [round(g, 4) for g in rss],
        "rss_mb": [round(b / 2**20, 1) for b in samples[-1].rss_bytes],
        "descriptors": samples[-1].descriptors,
        "connections": samples[-1].connections,
        "keys": samples[-1].keys,
        "keys_growth": round(keys, 4),
        "remaining": {key: {"size": size, "ttl_s": ttl_s} for key, (size, ttl_s) in remaining.items()},
        "violations": violations,
    }


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--jobs-per-minute", type=float, default=120)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(append_only=True) as broker:
        logs = [Path(folder) / f"{i}.log" for i in range(2)]
        workers = [WorkerProcess(broker.url, tiny_model_paths(), log) for log in logs]
        try:
            for worker in workers:
                worker.wait_until_ready()
            with Producer(broker.url) as producer, redis.Redis(port=broker.port) as client:
                samples, results = load(producer, client, workers, options.minutes, 60 / options.jobs_per_minute)
                remaining = left(client, results)
            verdict = judge(samples, results, [worker.text() for worker in workers], remaining)
        finally:
            for worker in workers:
                worker.stop()
    print(json.dumps(verdict | {"minutes": options.minutes}))
    sys.exit(1 if verdict["violations"] else 0)


if __name__ == "__main__":
    main()
