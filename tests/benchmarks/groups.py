"""What groups cost Redis, and what their turns are worth: a take with 1, 100 and 10,000 groups that wait.

    python -m tests.benchmarks.groups [--groups 1 100 10000] [--takes 2000]

Starts a server of its own, and no worker: takes and lets go of jobs by the ledger's steps, as workers do. Prints
hardware, commit and a table; the last line is JSON. Server CPU is what the server itself says of its scripts.
"""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import redis

from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys
from producer.ledger.submit import NewJob, submit
from producer.ledger.take import Taken, put_down, take
from worker.queue.groups import tend_groups

from .upkeep import server_of

MODEL = "tiny"
MANY, FEW = 10_000, 10
AT_ONCE = 500
KEYS = Keys()


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[0, 1, 100, 10_000], help="0: jobs without one.")
    parser.add_argument("--takes", type=int, default=2_000)
    options = parser.parse_args()
    with EmbeddedBroker() as broker, redis.Redis(port=broker.port) as client:
        figures: dict[str, Any] = {
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "server": server_of(client),
            "commit": subprocess.run(
                ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
            ).stdout.strip(),
            "others_before_each": others_before_each(client),
            "takes": [cost_of_a_take(client, groups, options.takes) for groups in options.groups],
        }
    show(figures)
    print(json.dumps(figures))


def others_before_each(client: redis.Redis) -> dict[str, int]:
    """Of FEW jobs of one group behind MANY of another: how many of the other are taken before each, at most."""
    client.flushall()
    enqueue(client, (("many", f"many-{number}") for number in range(MANY)))
    enqueue(client, (("few", f"few-{number}") for number in range(FEW)))
    order: list[str] = []
    while order.count("few") < FEW:
        job_id = take_one(client, "w")
        put_down(KEYS, "w", job_id).run(client)
        order.append(job_id.partition("-")[0])
    return {"many": MANY, "few": FEW, "before_each": longest_run(order), "takes_until_the_last": len(order)}


def longest_run(order: list[str]) -> int:
    """Of jobs of `many` without one of `few` between them."""
    return max(map(len, "".join("m" if group == "many" else " " for group in order).split()), default=0)


def cost_of_a_take(client: redis.Redis, groups: int, takes: int) -> dict[str, Any]:
    """Commands and server CPU of a take while so many groups wait; of letting go; of the slow pass over all."""
    client.flushall()
    each = max(1, -(-2 * takes // max(groups, 1)))
    names = [f"group-{number}" for number in range(groups)] or [None]
    enqueue(client, ((name, f"{name}-{number}") for number in range(each) for name in names))
    client.config_resetstat()
    jobs = [take_one(client, f"w{number}") for number in range(takes)]
    taken = stats(client, takes)
    client.config_resetstat()
    for number, job_id in enumerate(jobs):
        put_down(KEYS, f"w{number}", job_id).run(client)
    let_go = stats(client, takes)
    client.config_resetstat()
    began = time.monotonic()
    tend_groups(client, KEYS, MODEL)
    return {
        "groups": groups,
        "take": taken,
        "let_go": let_go,
        "slow_pass": {
            "seconds": round(time.monotonic() - began, 3),
            "server_ms": round(stats(client, 1)["server_us"] / 1000, 1),
        },
    }


def enqueue(client: redis.Redis, jobs: Iterable[tuple[str | None, str]]) -> None:
    """Submit each by itself, as producers do."""
    pipeline = client.pipeline(transaction=False)
    for group, job_id in jobs:
        fields = {"origin": KEYS.queue(MODEL, group=group), "status": "queued", "data": "{}"}
        new = [NewJob(job_id, "digest", 86_400, fields)]
        step = submit(KEYS, MODEL, "normal", new, max_queued=None, queue_ttl_s=86_400, group=group)
        step.send(pipeline)
        if len(pipeline) >= AT_ONCE:
            pipeline.execute()
    pipeline.execute()


def take_one(client: redis.Redis, worker: str) -> str:
    """The next job's id.  worker: each has one job, so that what it has in hand costs as it does in life."""
    taken = take(KEYS, worker, MODEL, known=(), list_ttl_s=86_400, max_bytes=2**20).run(client)
    assert isinstance(taken, Taken)
    return taken.job_id


def stats(client: redis.Redis, calls: int) -> dict[str, float]:
    """Commands within the scripts since the last reset, and the server's time for them, of one call."""
    said = client.info("commandstats")
    beside = {"cmdstat_info", "cmdstat_config|resetstat"}
    scripts = {"cmdstat_evalsha", "cmdstat_eval"}
    inside = sum(stat["calls"] for name, stat in said.items() if name not in beside | scripts)
    spent_us = sum(stat["usec"] for name, stat in said.items() if name in scripts)
    return {"commands": round(inside / calls, 2), "server_us": round(spent_us / calls, 1)}


def show(figures: dict[str, Any]) -> None:
    """For people."""
    print(f"{figures['machine']}; {figures['server']}; commit {figures['commit']}")
    few = figures["others_before_each"]
    print(f"{few['few']} jobs behind {few['many']} of another group: at most {few['before_each']} before each")
    print(
        f"{'groups':>8} {'take: commands':>15} {'us':>7} {'let go: commands':>17} {'us':>7} {'slow pass ms':>13}"
    )
    for row in figures["takes"]:
        print(
            f"{row['groups']:8} {row['take']['commands']:15} {row['take']['server_us']:7} "
            f"{row['let_go']['commands']:17} {row['let_go']['server_us']:7} {row['slow_pass']['server_ms']:13}"
        )


if __name__ == "__main__":
    main()
