"""The main job, from a prompt to its answer, on one machine: what `make demo` runs.

Starts a broker of its own (or uses REDIS_URL), starts a worker on the CPU with the tiny model, enqueues one
prompt, prints its tokens as they come, and leaves nothing running. It speaks to the worker as any script does:
through Redis.
"""

import os
import sys

from rich.console import Console
from rich.status import Status
from rich.text import Text

from .client import Producer
from .contract import GenerationResult, GenqueueError, Tokens
from .handles import JobHandle
from .local import broker_at, check_installed, ended_by_signals, local_worker, say_dimly
from .printable import printable
from .settings import TINY

DEFAULT_PROMPT = "你好，介绍一下你自己"

console = Console(stderr=True)


def main() -> None:
    """Run the demo.  Exit code 0 when the answer came."""
    prompt = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_PROMPT
    try:
        check_installed()
        with (
            ended_by_signals(),
            broker_at(os.environ.get("REDIS_URL")) as broker,
            local_worker(TINY, broker, device="cpu") as worker,
            Producer(broker.url) as producer,
        ):
            worker.wait_until_ready(producer)
            explain(show(producer.submit(prompt, model=TINY)))
    except GenqueueError as error:
        console.print(Text(printable(str(error)), style="red"), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def show(job: JobHandle) -> GenerationResult:
    """Print the tokens as they come."""
    say_dimly(f"job     {job.job_id}\n")
    with Status("queued", console=console) as status:
        for streamed in job.stream():
            if isinstance(streamed.event, Tokens):
                status.stop()
                sys.stdout.write(streamed.event.data.text)
                sys.stdout.flush()
    print()  # noqa: T201 - the answer's last line
    return job.result()


def explain(result: GenerationResult) -> None:
    """What the result says of itself, and where to go from here."""
    timings, usage = result.timings, result.usage
    say_dimly(
        f"\n{usage.prompt_tokens} prompt + {usage.completion_tokens} generated tokens · "
        f"queued {timings.queued_ms:.1f} ms · prefill {timings.prefill_ms:.1f} ms · "
        f"first token after {timings.time_to_first_token_ms:.1f} ms · "
        f"{timings.tokens_per_second or 0:.0f} tokens/s · finish_reason {result.finish_reason}"
    )
    folder = os.path.relpath(os.path.dirname(sys.executable))  # noqa: PTH120 - of a link, not of what it leads to
    console.print("\nTry next:")
    for command in (
        'make demo PROMPT="What is genqueue?"',
        f"{folder}/genqueue up    [dim]# broker, worker, and a prompt to type into[/]",
        f"{folder}/genqueue --help    [dim]# submit, stream, cancel …[/]",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
