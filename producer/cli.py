"""The command line: submit a prompt, watch its tokens, read its result.

stdout carries the answer, the job id or JSON, and nothing else; everything for people goes to stderr.

Exit codes: 0 done; 1 the job failed or was cancelled; 2 bad input; 3 no broker; 4 not now (the queue is full, or
the wait ran out: try again); 130 interrupted; 141 the reader of stdout has gone.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from .client import Producer
from .contract import (
    DEFAULT_MAX_NEW_TOKENS,
    BrokerUnavailable,
    GenerationResult,
    GenqueueError,
    InvalidRequest,
    QueueFull,
    StreamedEvent,
    WaitTimeout,
)
from .display import printable, waiting_line
from .interrupts import Interrupted, interruptible, interruptible_call
from .settings import ProducerSettings

EXIT_JOB_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NO_BROKER = 3
EXIT_NOT_NOW = 4
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as for any other program before `| head`

F = TypeVar("F", bound=Callable[..., Any])


class _ReaderGone(Exception):
    """Whoever read our stdout has gone, as `| head` does. click would call a BrokenPipeError exit code 1."""


def main() -> NoReturn:
    """Entry point of `genqueue` and `python -m producer`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows something else for it
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; a user's mistake ends in a message, not in a traceback."""
    try:
        return int(cli.main(arguments, prog_name="genqueue", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except _ReaderGone:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except GenqueueError as error:
        _say(str(error))
        return _exit_code(error)


def _exit_code(error: GenqueueError) -> int:
    if isinstance(error, BrokerUnavailable):
        return EXIT_NO_BROKER
    return EXIT_NOT_NOW if isinstance(error, (QueueFull, WaitTimeout)) else EXIT_BAD_INPUT


def _with_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(command: F) -> F:
        """Add the options to the command, so that `--help` lists them in their order."""
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def _setting_help(name: str, *variables: str) -> str:
    """Where an option comes from that is not given: the environment, else the settings' own default."""
    named = ", ".join(variables or [f"GENQUEUE_{name.upper()}"])
    return f"[env: {named}; default: {ProducerSettings.model_fields[name].default}]"


redis_url_option = click.option(
    "--redis-url", help=f"Of the broker. {_setting_help('redis_url', 'GENQUEUE_REDIS_URL', 'REDIS_URL')}"
)
connection_options = _with_options(
    redis_url_option,
    click.option("--prefix", help=f"First part of every key. {_setting_help('prefix')}"),
)
wait_option = click.option(
    "--wait-s",
    type=float,
    help=f"Bound of the wait: for a result, or for the next event of a stream. {_setting_help('wait_s')}",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
interrupt_option = click.option(
    "--on-interrupt",
    type=click.Choice(["leave", "cancel"]),
    help="What Ctrl-C does to the job. Default: ask on a terminal, elsewhere leave it running.",
)
sampling_options = _with_options(
    click.option(
        "--max-new-tokens", type=int, help=f"At most so many tokens. [default: {DEFAULT_MAX_NEW_TOKENS}]"
    ),
    click.option("--min-new-tokens", type=int, help="No end before so many tokens."),
    click.option("--temperature", type=float, help="0 is greedy, and the default."),
    click.option("--top-p", type=float, help="Sample from the likeliest tokens that add up to this probability."),
    click.option("--top-k", type=int, help="Sample from so many likeliest tokens. 0: off."),
    click.option("--min-p", type=float, help="Leave out tokens less likely than this share of the likeliest."),
    click.option("--repetition-penalty", type=float, help="Over prompt and output. 1: off."),
    click.option("--presence-penalty", type=float, help="Taken once from every token of the output so far."),
    click.option("--frequency-penalty", type=float, help="Taken for each time a token is in the output so far."),
    click.option("--seed", type=int, help="The same seed gives the same text."),
    click.option("--stop", multiple=True, help="A string that ends the text. Repeatable."),
    click.option("--ignore-eos", is_flag=True, default=None, help="Go on past the model's end of text."),
    click.option("--logprobs", type=int, help="With each token its log-probability, and so many likeliest."),
    click.option("--skip-special-tokens/--keep-special-tokens", default=None, help="Of the text. [default: skip]"),
    click.option("--add-special-tokens/--no-special-tokens", default=None, help="To the prompt. [default: add]"),
    click.option("--cache-salt", help="Share what was read of prompts only with requests of the same salt."),
    click.option(
        "--prompt-lookup/--no-prompt-lookup",
        default=None,
        help="Draft from prompt and output: for speed. [default: as the worker is set]",
    ),
)
prompt_options = _with_options(
    click.option("--message", "message", multiple=True, metavar="ROLE:TEXT", help="A turn of a chat. Repeatable."),
    click.option(
        "--messages-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help='A chat as JSON: [{"role": ..., "content": ...}, ...]',
    ),
    click.option("--prompt-token-ids", metavar="ID,ID,...", help="A prompt that is tokenized already."),
)
queue_options = _with_options(
    click.option("--job-id", help="An idempotency key: submitted twice, it is one job."),
    click.option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True),
    click.option(
        "--queue-ttl-s", type=float, help=f"How long it may wait for a worker. {_setting_help('queue_ttl_s')}"
    ),
    click.option("--timeout-s", type=int, help=f"How long a worker may take. {_setting_help('timeout_s')}"),
    click.option(
        "--result-ttl-s", type=int, help=f"How long events and result are kept. {_setting_help('result_ttl_s')}"
    ),
    click.option("--max-queued", type=int, help="Refuse when so many jobs wait for the model."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Text generation through a job queue."""


@cli.command()
@click.argument("prompt", required=False)
@click.option("--model-name", required=True, help="Which model is to answer.")
@click.option("--stream", "mode", flag_value="stream", help="Print the tokens as they come.")
@click.option("--wait", "mode", flag_value="wait", help="Print the text once the job has ended.")
@json_option
@wait_option
@interrupt_option
@prompt_options
@sampling_options
@queue_options
@connection_options
def submit(
    *,
    prompt: str | None,
    model_name: str,
    mode: str | None,
    as_json: bool,
    wait_s: float | None,
    on_interrupt: str | None,
    redis_url: str | None,
    prefix: str | None,
    **options: Any,
) -> int:
    """Enqueue PROMPT (- reads it from stdin, without its last line break) and print the job's id."""
    fields = _request_fields(prompt, options)
    with Producer(redis_url, prefix=prefix) as producer:
        job = producer.submit(model=model_name, **fields)
        if not job.created:
            _say(f"job {job.job_id} exists already: nothing was enqueued")
        if mode is None:
            handle = {"job_id": job.job_id, "model": job.model, "created": job.created}
            _print((json.dumps(handle) if as_json else job.job_id) + "\n")
            return 0
        _say(f"job {job.job_id}")
        if mode == "stream":
            return _follow(producer, job.job_id, None, wait_s, as_json=as_json, on_interrupt=on_interrupt)
        return _wait(producer, job.job_id, wait_s, as_json=as_json, on_interrupt=on_interrupt)


@cli.command()
@click.argument("job_id", metavar="JOB")
@click.option("--after", metavar="ID", help="Go on after this event, as 1-7.")
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
    """Print the tokens of JOB as they come; with --json one event a line."""
    with Producer(redis_url, prefix=prefix) as producer:
        return _follow(producer, job_id, after, wait_s, as_json=as_json, on_interrupt=on_interrupt)


@cli.command()
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
    """Print the text of JOB once it has ended; with --json its whole result."""
    with Producer(redis_url, prefix=prefix) as producer:
        return _wait(producer, job_id, wait_s, as_json=as_json, on_interrupt=on_interrupt)


@cli.command()
@click.argument("job_id", metavar="JOB")
@connection_options
def cancel(job_id: str, redis_url: str | None, prefix: str | None) -> int:
    """Cancel JOB. Prints cancelled, requested (its worker will end it) or ended (it had ended before)."""
    with Producer(redis_url, prefix=prefix) as producer:
        _print(producer.cancel(job_id) + "\n")
    return 0


@cli.command()
@click.argument("job_id", metavar="JOB")
@json_option
@connection_options
def status(job_id: str, as_json: bool, redis_url: str | None, prefix: str | None) -> int:
    """Print what is known of JOB: its place in line, its worker, its progress."""
    with Producer(redis_url, prefix=prefix) as producer:
        known = producer.status(job_id)
    _print((known.model_dump_json() if as_json else printable(known.describe())) + "\n")
    return 0


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=9181, show_default=True)
@click.option("--username", envvar="GENQUEUE_DASHBOARD_USERNAME", show_envvar=True)
@click.option("--password", envvar="GENQUEUE_DASHBOARD_PASSWORD", show_envvar=True)
@connection_options
@click.option(
    "--all", "everything", is_flag=True, help="Show all that uses RQ on the server, whatever its prefix."
)
@click.option(
    "--show-prompts",
    is_flag=True,
    envvar="GENQUEUE_DASHBOARD_SHOW_PROMPTS",
    show_envvar=True,
    help="Show a job's prompt beside its answer.",
)
def dashboard(
    *,
    host: str,
    port: int,
    username: str | None,
    password: str | None,
    redis_url: str | None,
    prefix: str | None,
    everything: bool,
    show_prompts: bool,
) -> int:
    """Serve rq-dashboard, set up for these jobs: those of one prefix."""
    from .dashboard import serve  # Flask, which no other command needs

    settings = ProducerSettings.load(redis_url=redis_url, prefix=prefix)
    shown = None if everything else settings.prefix
    serve(
        settings.redis_url,
        host=host,
        port=port,
        username=username,
        password=password,
        prefix=shown,
        show_prompts=show_prompts,
    )
    return 0


def _follow(
    producer: Producer,
    job_id: str,
    after: str | None,
    wait_s: float | None,
    *,
    as_json: bool,
    on_interrupt: str | None,
) -> int:
    seen = after
    try:
        with waiting_line(producer, job_id) as line:
            for item in interruptible(producer.stream(job_id, after, wait_s)):
                if as_json or item.event.type == "tokens":
                    line.clear()
                _print(item.to_json() + "\n" if as_json else _text_of(item))
                seen = str(item.id)
                if isinstance(item.event.data, GenerationResult):
                    return _report(item.event.data)
        # Nothing came: the cursor was at the job's end, which counts all the same.
        return _report(interruptible_call(lambda: producer.result(job_id, wait_s)))
    except Interrupted:
        return _interrupted(producer, job_id, seen, on_interrupt)


def _wait(
    producer: Producer, job_id: str, wait_s: float | None, *, as_json: bool, on_interrupt: str | None
) -> int:
    try:
        with waiting_line(producer, job_id):
            ended = interruptible_call(lambda: producer.result(job_id, wait_s))
    except Interrupted:
        return _interrupted(producer, job_id, None, on_interrupt)
    _print((ended.model_dump_json() if as_json else ended.text) + "\n")
    return _report(ended)


def _text_of(item: StreamedEvent) -> str:
    if item.event.type == "tokens":
        return item.event.data.text
    return "\n" if item.is_terminal else ""


def _report(ended: GenerationResult) -> int:
    if ended.status == "finished":
        return 0
    why = f": {ended.error.message} ({ended.error.code})" if ended.error else ""
    _say(f"job {ended.job_id} {'was cancelled' if ended.status == 'cancelled' else 'failed'}{why}")
    return EXIT_JOB_FAILED


def _interrupted(producer: Producer, job_id: str, seen: str | None, on_interrupt: str | None) -> int:
    _say("")  # the answer so far has no line break
    if (on_interrupt or _ask_on_interrupt()) == "cancel":
        _say(f"job {job_id}: {producer.cancel(job_id)}")
    else:
        cursor = f" --after {seen}" if seen else ""
        _say(f"job {job_id} goes on; to follow it again: genqueue stream {job_id}{cursor}")
    return EXIT_INTERRUPTED


def _ask_on_interrupt() -> str:
    """Leave or cancel. Not on a terminal, or interrupted once more: leave."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "leave"
    try:
        choice = click.Choice(["leave", "cancel"])
        return str(click.prompt("Leave the job running, or cancel it?", type=choice, default="leave", err=True))
    except click.Abort:
        _say("")
        return "leave"


def _request_fields(prompt: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of Producer.submit from the command's options. What was not given is left out."""
    messages = _messages(options.pop("message"), options.pop("messages_file"))
    token_ids = _token_ids(options.pop("prompt_token_ids"))
    prompt = _read_stdin() if prompt == "-" else prompt
    fields = {**options, "prompt": prompt, "messages": messages, "prompt_token_ids": token_ids}
    return {name: value for name, value in fields.items() if value is not None and value != ()}


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidRequest("the prompt on stdin is not UTF-8 text") from None


def _messages(turns: Sequence[str], path: Path | None) -> list[Any] | None:
    if turns and path:
        raise InvalidRequest("give --message or --messages-file, not both")
    if path:
        return _messages_in(path)
    faulty = [turn for turn in turns if ":" not in turn]
    if faulty:
        raise InvalidRequest("--message has the form ROLE:TEXT, as in --message 'user:Hello'")
    return [{"role": role, "content": text} for role, _, text in (turn.partition(":") for turn in turns)] or None


def _messages_in(path: Path) -> list[Any]:
    try:
        messages = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(messages, list):
        raise InvalidRequest(f'{path} must hold a list of {{"role": ..., "content": ...}}')
    return messages


def _token_ids(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidRequest("--prompt-token-ids takes numbers with commas between them, as 1,2,3") from None


def _print(text: str) -> None:
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        raise _ReaderGone from None


def _say(text: str) -> None:
    click.echo(printable(text), err=True)
