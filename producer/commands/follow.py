"""`stream` and `result`: follow a job to its end. `submit --stream`, `submit --wait` and `up` do the same."""

from collections.abc import Iterator

import click

from ..client import Producer
from ..contract import GenerationResult, StreamedEvent
from ..display import waiting_line
from ..interrupts import Interrupted, interruptible, interruptible_call
from ..settings import ProducerSettings
from .options import connection_options, interrupt_option, json_option, wait_option
from .output import EXIT_INTERRUPTED, EXIT_JOB_FAILED, can_ask, say, show


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--after", metavar="ID", help="Go on after this event, as 1-7. [default: from the first]")
@json_option
@wait_option
@interrupt_option
@connection_options
def stream(
    *,
    job_id: str,
    after: str | None,
    as_json: bool,
    wait_s: float | None,
    on_interrupt: str | None,
    redis_url: str | None,
    prefix: str | None,
) -> int:
    """Print the tokens of JOB as they come.

    With --json: one event a line.
    """
    with producer_for(redis_url, prefix, wait_s) as producer:
        return follow_stream(producer, job_id, after, as_json=as_json, on_interrupt=on_interrupt)


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@wait_option
@interrupt_option
@connection_options
def result(
    *,
    job_id: str,
    as_json: bool,
    wait_s: float | None,
    on_interrupt: str | None,
    redis_url: str | None,
    prefix: str | None,
) -> int:
    """Print the text of JOB once it has ended.

    With --json: its whole result.
    """
    with producer_for(redis_url, prefix, wait_s) as producer:
        return wait_for_result(producer, job_id, as_json=as_json, on_interrupt=on_interrupt)


class Follower:
    """Prints a job's stream, and knows how far it has come."""

    def __init__(self, producer: Producer, job_id: str, after: str | None = None) -> None:
        self._producer, self._job_id = producer, job_id
        self.seen = after
        """Id of the last event that was printed."""

    def follow(self, *, as_json: bool = False) -> GenerationResult:
        """Print until the job has ended.  Raises Interrupted once Ctrl-C was pressed, and as `Producer.stream`."""
        has_text = False
        with waiting_line(self._producer, self._job_id) as line:
            for item in interruptible(self._events()):
                if as_json or item.event.type == "tokens":
                    line.clear()
                show(item.to_json() + "\n" if as_json else _text_of(item))
                has_text |= item.event.type == "tokens"
                self.seen = str(item.id)
                if isinstance(ended := item.event.data, GenerationResult):
                    if not as_json and (has_text or ended.status == "finished"):
                        show("\n")
                    return ended
        # Nothing came: the cursor was at the job's end, which counts all the same.
        return end_of(self._producer, self._job_id)

    def _events(self) -> Iterator[StreamedEvent]:
        """The stream, opened where its first event is asked for: on the thread that Ctrl-C does not wait for."""
        yield from self._producer.stream(self._job_id, self.seen)


def producer_for(redis_url: str | None, prefix: str | None, wait_s: float | None) -> Producer:
    """One whose waits have that bound; what is None comes from the environment."""
    return Producer(settings=ProducerSettings.load(redis_url=redis_url, prefix=prefix, wait_s=wait_s))


def follow_stream(
    producer: Producer, job_id: str, after: str | None, *, as_json: bool, on_interrupt: str | None
) -> int:
    """Print the stream.  Returns the exit code."""
    follower = Follower(producer, job_id, after)
    try:
        return report(follower.follow(as_json=as_json), can_go_on=True)
    except Interrupted:
        return _interrupted(producer, job_id, follower.seen, on_interrupt)


def wait_for_result(producer: Producer, job_id: str, *, as_json: bool, on_interrupt: str | None) -> int:
    """Print the result.  Returns the exit code."""
    try:
        with waiting_line(producer, job_id):
            ended = end_of(producer, job_id)
    except Interrupted:
        return _interrupted(producer, job_id, None, on_interrupt)
    if as_json or ended.text or ended.status == "finished":  # else there is no answer, and no empty one either
        show((ended.model_dump_json() if as_json else ended.text) + "\n")
    return report(ended, can_go_on=True)


def end_of(producer: Producer, job_id: str) -> GenerationResult:
    """How the job ended, well or badly.  Raises Interrupted once Ctrl-C was pressed, and as `Producer.result`."""
    return interruptible_call(lambda: producer.result(job_id, check=False))


def report(ended: GenerationResult, *, can_go_on: bool = False) -> int:
    """Say how a job ended that did not come to the end of its text.  Returns the exit code.

    can_go_on: whether its server is there for another command, too.
    """
    if ended.status == "finished":
        if ended.truncated:
            count = ended.usage.completion_tokens
            say(f"the text was cut off after {count} tokens: --max-new-tokens, or the context, allowed no more")
            if can_go_on:
                say(f"to go on with it:\n  genqueue continue {ended.job_id}")
        return 0
    why = f": {ended.error.message} ({ended.error.code})" if ended.error else ""
    say(f"job {ended.job_id} {'was cancelled' if ended.status == 'cancelled' else 'failed'}{why}")
    return EXIT_JOB_FAILED


def _text_of(item: StreamedEvent) -> str:
    return item.event.data.text if item.event.type == "tokens" else ""


def _interrupted(producer: Producer, job_id: str, seen: str | None, on_interrupt: str | None) -> int:
    say("")  # the answer so far has no line break
    if (on_interrupt or _ask_on_interrupt()) == "cancel":
        say(f"job {job_id}: {producer.cancel(job_id)}")
    else:
        cursor = f" --after {seen}" if seen else ""
        say(f"job {job_id} goes on; to follow it again:\n  genqueue stream {job_id}{cursor}")
    return EXIT_INTERRUPTED


def _ask_on_interrupt() -> str:
    """Leave or cancel. Not on a terminal, or interrupted once more: leave."""
    if not can_ask():
        return "leave"
    try:
        choice = click.Choice(["leave", "cancel"])
        return str(click.prompt("Leave the job running, or cancel it?", type=choice, default="leave", err=True))
    except click.Abort:
        say("")
        return "leave"
