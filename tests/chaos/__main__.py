"""`python -m tests.chaos`: the storm, with a server that keeps everything and with one that forgets everything.

What happens is told on stderr; the last line of stdout is one JSON object. Exit code 1 if a promise was broken.
"""

import argparse
import json
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

from producer.broker.embedded import EmbeddedBroker
from tests.models import tiny_model_paths

from .amnesia import Amnesia
from .deaths import NO_REWRITE
from .plan import Plan
from .report import Report
from .storm import Storm
from .workload import Workload

SHORT = {"jobs": 12, "workers": 3, "kills": 3, "server_kills": 1, "outages": 0, "preemptions": 2}


def main() -> int:
    """Run the suite.  Returns the exit code."""
    options = parse_options()
    rng = random.Random(options.seed)
    say(f"seed {options.seed}")
    paths = tiny_model_paths()
    plan = Plan(
        options.jobs,
        options.workers,
        options.kills,
        options.server_kills,
        options.outages,
        options.preemptions,
        options.apart,
        pool=8 if options.short else 24,
    )
    workload = Workload(rng, paths, size=plan.pool)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="genqueue-chaos-") as folder:
        for phase in ("aof", "no-aof") if options.aof is None else ("aof" if options.aof else "no-aof",):
            started_at = time.monotonic()
            own = Path(options.keep or folder) / phase
            own.mkdir(parents=True, exist_ok=True)
            with EmbeddedBroker(append_only=phase == "aof", options=NO_REWRITE) as broker:
                if phase == "aof":
                    report += Storm(broker, workload, plan, rng=rng, folder=own, paths=paths).run()
                else:
                    workers, rounds = (1, 1) if options.short else (2, 5)
                    report += Amnesia(broker, workload, own, paths, workers=workers, rounds=rounds).run()
            say(f"{phase}: {time.monotonic() - started_at:.0f} s, so far {report.summary()}")
    for recovery in report.slow:
        say(f"slow recovery: {recovery.summary()}")
    for violation in report.violations:
        say(f"VIOLATION {violation.job_id} {violation.rule}: {violation.detail}")
    print(json.dumps({"seed": options.seed, **report.summary()}))
    return 1 if report.violations else 0


def parse_options() -> argparse.Namespace:
    """Options, with those of the short form where they are not given."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--jobs", type=int, help="at least so many")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--kills", type=int, help="of workers and engines, at least so many")
    parser.add_argument("--server-kills", type=int, help="of the server, which is back within seconds")
    parser.add_argument("--outages", type=int, help="of 8 to 15 s, in which nobody dies")
    parser.add_argument(
        "--preemptions", type=int, help="jobs that make way for others, at least so often; 0: none"
    )
    parser.add_argument(
        "--apart", type=float, default=Plan.apart, help="share of the workers that are as on hosts of their own"
    )
    parser.add_argument("--aof", action=argparse.BooleanOptionalAction, help="only with, only without AOF")
    parser.add_argument("--short", action="store_true", help="about a minute")
    parser.add_argument("--keep", help="folder for the logs of workers and subscribers")
    options = parser.parse_args()
    defaults = SHORT if options.short else {name: getattr(Plan, name) for name in SHORT}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def say(text: str) -> None:
    """To people."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
