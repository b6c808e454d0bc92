"""What is run: every command's help, every command as people use it, and what goes wrong first."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from producer import Producer
from producer.cli import cli as producer_cli
from worker.cli import cli as worker_cli

PROGRAMS = {"genqueue": ("producer", producer_cli), "genqueue-worker": ("worker", worker_cli)}
NOWHERE = "redis://127.0.0.1:1/0"
PROMPT = "你好，介绍一下你自己"


@dataclass(frozen=True, slots=True)
class Scene:
    """A command line, as it is typed."""

    program: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    until: str | None = None
    """Words at which it is interrupted."""
    limit_s: float = 120.0

    @property
    def shown_as(self) -> str:
        """The line."""
        variables = [f"{name}={value}" for name, value in self.environment]
        quoted = [f'"{each}"' if " " in each or not each else each for each in self.arguments]
        return " ".join([*variables, self.program, *quoted])

    @property
    def has_records(self) -> bool:
        """Whether its lines are records, each of which stays one line however long it is."""
        return "--json" in self.arguments or (self.program, self.arguments[:1]) == ("genqueue-worker", ("run",))

    @property
    def module(self) -> str:
        """What Python runs."""
        return PROGRAMS[self.program][0]


def helps() -> Iterator[Scene]:
    """`--help` of each program and of each command in it, and their other flags that only answer."""
    for program, (_, group) in PROGRAMS.items():
        for path, command in _walk(group):
            yield Scene(program, (*path, "--help"))
            flags = {flag for parameter in command.params for flag in parameter.opts}
            if "--version" in flags:
                yield Scene(program, (*path, "--version"))


def bare() -> Iterator[Scene]:
    """Each command with nothing behind it, where no server is: what people type first."""
    for program, (_, group) in PROGRAMS.items():
        for path, _ in _walk(group):
            yield Scene(program, path, (("GENQUEUE_REDIS_URL", NOWHERE),), limit_s=10)


def wrong() -> Iterator[Scene]:
    """What goes wrong first."""
    nowhere = (("GENQUEUE_REDIS_URL", NOWHERE), ("GENQUEUE_BROKER_WAIT_S", "1"))
    for arguments in (("stream", "a"), ("result", "a"), ("cancel", "a"), ("status", "a")):
        yield Scene("genqueue", arguments, nowhere)
    yield Scene("genqueue", ("submit", "Hi", "--model-name", "tiny"), nowhere)
    yield Scene("genqueue", ("submit", "Hi", "--model-name", "tiny", "--redis-url", "localhost:6379"))
    yield Scene("genqueue", ("submit", "Hi", "--model-name", "tiny", "--temperature", "hot"))
    yield Scene("genqueue", ("submit", "Hi", "--model-name", "tiny", "--max-tokens", "3"))
    yield Scene("genqueue", ("submit", "Hi", "--model-name", "tiny", "--top-p", "3"))
    yield Scene("genqueue", ("submit", "Hi", "--model-name", "Qwen/Qwen2-7B"))
    yield Scene("genqueue", ("submit", "--model-name", "tiny", "--message", "Hello"))
    yield Scene("genqueue", ("dashboard", "--host", "0.0.0.0"))
    yield Scene("genqueue-worker", ("check", "--model-name", "tiny"), nowhere)
    yield Scene("genqueue-worker", ("run", "--model-name", "tiny", "--device", "cpu"), nowhere)
    yield Scene("genqueue-worker", ("run", "--model-name", "Qwen/Qwen2-7B", "--device", "cpu"), nowhere)
    yield Scene("genqueue-worker", ("run", "--model-name", "none-of-these", "--device", "cpu"), nowhere)
    yield Scene("genqueue-worker", ("generate", "--model-name", "tiny", "--device", "cuda:7"))


def at_work(redis_url: str, job_id: str, waiting_id: str) -> Iterator[Scene]:
    """With a server, a worker, a job that has ended, and one of a model that nobody serves."""
    here = (("GENQUEUE_REDIS_URL", redis_url),)
    tiny = ("--model-name", "tiny")
    yield Scene("genqueue", ("submit", PROMPT, *tiny, "--stream"), here)
    yield Scene("genqueue", ("submit", PROMPT, *tiny, "--wait"), here)
    yield Scene("genqueue", ("submit", PROMPT, *tiny), here)
    yield Scene("genqueue", ("submit", PROMPT, *tiny, "--wait", "--json"), here)
    yield Scene("genqueue", ("submit", "Hi", *tiny, "--wait", "--max-new-tokens", "1000000"), here)
    for command in ("stream", "result", "status", "cancel"):
        yield Scene("genqueue", (command, job_id), here)
    yield Scene("genqueue", ("status", waiting_id), here)
    yield Scene("genqueue", ("stream", waiting_id, "--wait-s", "2"), here)
    yield Scene("genqueue", ("result", waiting_id), here, until="in line", limit_s=30)
    yield Scene("genqueue", ("cancel", waiting_id), here)
    yield Scene("genqueue", ("status", "never-submitted"), here)
    yield Scene("genqueue", ("dashboard", "--port", "0"), here, until="http://")
    yield Scene("genqueue", ("broker", "--port", "0"), until="Ctrl-C ends it")
    yield Scene("genqueue", ("up",), until="at the prompt it ends")
    yield Scene("genqueue", ("doctor", *tiny, "--device", "cpu"), here)
    yield Scene("genqueue-worker", ("check", *tiny), here)
    yield Scene("genqueue-worker", ("check", "--model-name", "other"), here)
    yield Scene("genqueue-worker", ("generate", *tiny, "--device", "cpu", "--prompt", PROMPT))
    run = ("run", *tiny, "--device", "cpu")
    yield Scene("genqueue-worker", run, here, until="is ready")
    yield Scene("genqueue-worker", (*run, "--log-format", "json"), here, until="is ready")


def with_many(redis_url: str, folder: Path) -> Iterator[Scene]:
    """While jobs of two models run and wait; then a file of prompts, interrupted, ended, and gone through again.

    folder: for the files.
    """
    here = (("GENQUEUE_REDIS_URL", redis_url),)
    tiny = ("--model-name", "tiny")
    with Producer(redis_url) as producer:
        ended = producer.submit(PROMPT, model="tiny", max_new_tokens=4, ignore_eos=True)
        ended.result()
        for priority in ("normal", "low"):
            producer.submit_many(
                [PROMPT] * 30, model="tiny", priority=priority, max_new_tokens=900, ignore_eos=True
            )
    yield Scene("genqueue", ("ps",), here)
    yield Scene("genqueue", ("ps", *tiny, "--watch"), here, until="running", limit_s=30)
    yield Scene("genqueue", ("ps", "--json"), here)
    yield Scene("genqueue", ("models",), here)
    yield Scene("genqueue", ("cancel", "--queued", *tiny), here)
    yield Scene("genqueue", ("continue", ended.job_id, "--max-new-tokens", "8", "--wait"), here)
    yield Scene("genqueue", ("delete", ended.job_id), here)
    rows, answers = folder / "prompts.jsonl", folder / "answers.jsonl"
    answers.unlink(missing_ok=True)
    first = time.time_ns()  # of no batch before, whose answers the server still has
    rows.write_text("".join(f"{json.dumps(f'{PROMPT} {first + row}')}\n" for row in range(200)), encoding="utf-8")
    batch = ("batch", str(rows), str(answers), *tiny, "--max-new-tokens", "64")
    yield Scene("genqueue", batch, here, until="0:00:0", limit_s=60)
    yield Scene("genqueue", batch, here)
    yield Scene("genqueue", batch, here)


def _walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _walk(inner, (*path, name))
