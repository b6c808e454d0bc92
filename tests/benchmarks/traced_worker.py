"""The real worker, which in addition writes down when each token was sampled.

The times go to Redis after the job's end, as a list under `trace:JOB`, for the benchmark to hold against the times
at which a subscriber saw the tokens. `time.monotonic()` is one clock for all processes of a machine.

    python -m tests.benchmarks.traced_worker run --model-name tiny …
"""

from collections.abc import Sequence

from worker.cli import main
from worker.engine_process.protocol import StepMessage
from worker.job import Order, Outcome
from worker.run.attempt import Attempt
from worker.run.runner import Runner
from worker.run.turn import Turn

sampled_at: list[float] = []
publish, run = Attempt._publish, Runner.run


def traced_publish(self: Attempt, steps: Sequence[StepMessage]) -> None:
    """Attempt._publish, and a note."""
    sampled_at.extend(step.sampled_at for step in steps)
    publish(self, steps)


async def traced_run(self: Runner, order: Order, turn: Turn | None = None) -> Outcome:
    """Runner.run, and the notes to Redis when the job has ended."""
    sampled_at.clear()
    outcome = await run(self, order, turn)
    await self.client.rpush(f"trace:{order.job_id}", *sampled_at)
    return outcome


Attempt._publish = traced_publish  # type: ignore[method-assign]
Runner.run = traced_run  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
