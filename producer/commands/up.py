"""`up`: broker, worker and a prompt to type into, in one command; all of it ends with the command.

Everything but the answers goes to stderr, so that `echo "How are you?" | genqueue up > answer.txt` works too.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import click

from ..client import Producer
from ..contract import BrokerUnavailable, GenerationResult, GenqueueError, InvalidRequest
from ..interrupts import Interrupted
from ..local import (
    LocalWorker,
    broker_at,
    check_installed,
    check_servable,
    ended_by_signals,
    local_gateway,
    local_worker,
    say_dimly,
)
from ..settings import TINY, ProducerSettings
from .follow import Follower, end_of, report
from .options import chosen_model, model_options, prefix_option, sampling_options
from .output import is_typed, say

SERVE_PORT = 8000


@click.command()
@model_options
@click.option(
    "--device",
    envvar="GENQUEUE_DEVICE",
    help="As torch names it: cuda:0, cpu. [env: GENQUEUE_DEVICE; default: cpu for tiny, else cuda:0]",
)
@click.option(
    "--serve",
    "serve_port",
    is_flag=False,
    flag_value=SERVE_PORT,
    type=click.IntRange(1, 65535),
    metavar="[PORT]",
    help=f"Serve OpenAI's API and a page, too, on 127.0.0.1. [default port: {SERVE_PORT}]",
)
@sampling_options
@click.option(
    "--redis-url",
    metavar="URL",
    help="Of a broker that runs. [env: GENQUEUE_REDIS_URL, REDIS_URL; default: one of its own]",
)
@prefix_option
def up(
    *,
    model_name: str | None,
    model_path: Path | None,
    device: str | None,
    serve_port: int | None,
    redis_url: str | None,
    prefix: str | None,
    **sampling: Any,
) -> int:
    """Start a broker and a worker, and answer what is typed.

    With a model that has a chat template it is a conversation, in which an answer may have 2048 tokens unless
    --max-new-tokens says otherwise. With another, each line is a prompt of its own. tiny was taught single
    questions, and is asked each line as one.

    Ctrl-C stops an answer; at the prompt, Ctrl-C or Ctrl-D ends the broker, the worker and the command.

    The first use of tiny trains it, in well under a minute. Any other model is to be in a folder on this machine:

    \b
      hf download Qwen/Qwen2.5-0.5B-Instruct \\
        --local-dir models/Qwen2.5-0.5B-Instruct
      genqueue up --model-path models/Qwen2.5-0.5B-Instruct --device cpu
    """
    check_installed()
    if serve_port is not None:
        check_servable(serve_port)  # before a model is loaded, which may take minutes
    model, folder = chosen_model(model_name, model_path)
    settings = ProducerSettings.load(redis_url=redis_url, prefix=prefix)
    is_tiny = model == TINY and folder is None
    device = device or ("cpu" if is_tiny else None)
    with (
        ended_by_signals(),
        broker_at(settings.redis_url if "redis_url" in settings.model_fields_set else None) as server,
        local_worker(model, server, prefix=settings.prefix, model_path=folder, device=device) as worker,
        Producer(server.url, prefix=settings.prefix) as producer,
        contextlib.ExitStack() as started,
    ):
        ready = worker.wait_until_ready(producer)
        if serve_port is not None:
            started.enter_context(local_gateway(server, serve_port, prefix=settings.prefix))
        lines_are: LinesAre = "prompts" if not ready.chat_template else "questions" if is_tiny else "turns"
        chat = Conversation(producer, worker, _given(sampling), lines_are)
        _say_what_to_do(model, server.url, lines_are)
        _converse(chat)
        say_dimly("ending the worker")
    return 0


LinesAre = Literal["turns", "questions", "prompts"]
"""Of one conversation, of which the model sees all; or each alone, with and without a chat template."""
_SAID = {
    "turns": "a conversation",
    "questions": "tiny knows single questions: each line is one of its own",
    "prompts": "no chat template, so that each line is a prompt of its own",
}

ANSWER_TOKENS = 2048
"""Of an answer in a conversation, at most. It ends by itself, often after more tokens than a job's default."""


class Conversation:
    """Asks the model, line by line."""

    def __init__(
        self, producer: Producer, worker: LocalWorker, sampling: Mapping[str, Any], lines_are: LinesAre
    ) -> None:
        self._producer, self._worker, self._sampling = producer, worker, sampling
        self._lines_are = lines_are
        self._turns: list[dict[str, str]] = []
        self._bound = {"max_new_tokens": ANSWER_TOKENS} if lines_are == "turns" else {}

    def ask(self, line: str) -> None:
        """Print the answer as it comes; Ctrl-C cancels it.  Raises BrokerUnavailable; or once the worker ended."""
        self._worker.check_alive()
        try:
            ended = self._answer(line)
            if self._bound and _failed_with(ended, "invalid_request"):
                self._bound = {}  # more than the context has room for: the default is what fits
                ended = self._answer(line)
            while _failed_with(ended, "prompt_too_long") and self._turns:
                del self._turns[:2]
                say_dimly("the conversation is longer than the model's context: its oldest turn was left out")
                ended = self._answer(line)
        except BrokerUnavailable:
            raise
        except GenqueueError as error:
            say(str(error))
            return
        report(ended)
        if self._lines_are == "turns" and ended.text:
            self._turns += [_turn("user", line), _turn("assistant", ended.text)]

    def _answer(self, line: str) -> GenerationResult:
        is_prompt = self._lines_are == "prompts"
        request = {"prompt": line} if is_prompt else {"messages": [*self._turns, _turn("user", line)]}
        job = self._producer.submit(model=self._worker.model, **request, **{**self._bound, **self._sampling})
        try:
            return Follower(self._producer, job.job_id).follow()
        except Interrupted:
            say("")  # the answer so far has no line break
            self._producer.cancel(job.job_id)
            return end_of(self._producer, job.job_id)


def _converse(chat: Conversation) -> None:
    """Until Ctrl-C or the end of input."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in _lines():
            with contextlib.suppress(Interrupted):  # twice over one answer: the next prompt
                chat.ask(line)
    if is_typed():
        say("")  # the prompt has no line break


def _lines() -> Iterator[str]:
    """What is typed, or comes through a pipe; blank lines are none."""
    has_prompt = is_typed() and sys.stdout.isatty()
    if has_prompt:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - `input` has history and cursor keys with it
    while sys.stdin is not None:
        try:
            line = input("> " if has_prompt else "")
        except EOFError:
            return
        except UnicodeDecodeError:
            raise InvalidRequest("what comes from stdin is not UTF-8 text") from None
        if line.strip():
            yield line


def _say_what_to_do(model: str, url: str, lines_are: LinesAre) -> None:
    say_dimly(f"ready   {_SAID[lines_are]}")
    if is_typed():
        say_dimly("        Ctrl-C stops an answer; at the prompt it ends all of this")
        if "@" not in url:  # it may hold a password
            say_dimly("from another terminal:")
            say_dimly(f"  export REDIS_URL={url}")
            chat = "" if lines_are == "prompts" else "--chat "
            say_dimly(f'  genqueue submit "Hi" {chat}--model-name {model} --stream')


def _failed_with(ended: GenerationResult, code: str) -> bool:
    return ended.error is not None and ended.error.code == code


def _given(sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling.items() if value is not None and value != ()}


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}
