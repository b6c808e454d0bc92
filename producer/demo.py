"""The main job, from a prompt to its answer, on one machine: what `make demo` runs.

Starts a broker of its own (or uses REDIS_URL), starts a worker on the CPU with the tiny model, enqueues one
prompt, prints its tokens as they come, and leaves nothing running. It speaks to the worker as any script does:
through Redis.
"""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status
from rich.text import Text

from .broker.embedded import EmbeddedBroker
from .client import JobHandle, Producer
from .contract import GenerationResult, GenqueueError, Tokens
from .display import printable

MODEL = "tiny"
DEFAULT_PROMPT = "你好，介绍一下你自己"
START_TIMEOUT_S = 300.0
"""The first start trains the tiny model."""
STOP_TIMEOUT_S = 15.0

console = Console(stderr=True)


def main() -> None:
    """Run the demo.  Exit code 0 when the answer came."""
    prompt = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_PROMPT
    try:
        check_installed()
        with broker_url() as url, worker(url) as process, Producer(url) as producer:
            wait_for_worker(producer, process)
            explain(show(producer.submit(prompt, model=MODEL)))
    except GenqueueError as error:
        console.print(Text(printable(str(error)), style="red"), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def check_installed() -> None:
    """Raises GenqueueError where the worker's half is missing: a bare install is the producer alone."""
    if any(importlib.util.find_spec(name) is None for name in ("worker", "torch", "transformers")):
        raise GenqueueError("the worker is not installed: pip install 'genqueue[worker,embedded]'")


@contextlib.contextmanager
def broker_url() -> Iterator[str]:
    """The server to use: REDIS_URL, or one of our own for as long as the demo lasts."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    with EmbeddedBroker() as broker:
        console.print(f"[dim]broker  {broker.url}  (embedded; it ends with the demo)")
        yield broker.url


@contextlib.contextmanager
def worker(redis_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process on the CPU, ended as an operator would end it: with SIGTERM."""
    command = [sys.executable, "-m", "worker", "run", "--model-name", MODEL, "--device", "cpu"]
    command += ["--redis-url", redis_url, "--log-level", "warning"]
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own interpreter and module
    console.print(f"[dim]worker  pid {process.pid}  {MODEL} on cpu")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        process.kill()
        process.wait()


def wait_for_worker(producer: Producer, process: subprocess.Popen[bytes]) -> None:
    """Wait until the worker has loaded its model.  Raises GenqueueError when it does not come to that."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not any(live.model_state == "ready" for live in producer.workers(MODEL)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise GenqueueError("the worker did not start; its messages stand above")
        time.sleep(0.1)


def show(job: JobHandle) -> GenerationResult:
    """Print the tokens as they come."""
    console.print(f"[dim]job     {job.job_id}\n")
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
    console.print(
        f"\n[dim]{usage.prompt_tokens} prompt + {usage.completion_tokens} generated tokens · "
        f"queued {timings.queued_ms:.1f} ms · prefill {timings.prefill_ms:.1f} ms · "
        f"first token after {timings.time_to_first_token_ms:.1f} ms · "
        f"{timings.tokens_per_second or 0:.0f} tokens/s · finish_reason {result.finish_reason}",
        soft_wrap=True,
    )
    python = os.path.relpath(sys.executable)
    console.print("\nTry next:")
    for command in (
        'make demo PROMPT="What is genqueue?"',
        f"{python} -m worker generate --model-name {MODEL} --device cpu    [dim]# one prompt, no Redis[/]",
        f"{python} -m producer --help    [dim]# submit, stream, cancel …[/]",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
