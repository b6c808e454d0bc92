"""One run of a batch, from its input to its output."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..async_client import AsyncProducer
from ..contract import GenqueueError
from ..settings import ProducerSettings
from ..submission import SubmitOptions, parse_request, prepare
from .answers import Answer, own_line
from .done import Done
from .identity import Identity
from .openai_answers import openai_line
from .outbox import Outbox
from .output import OutputFile, encode
from .progress import Display, Tally, display
from .rows import Row, RowParser
from .runner import CHECK_EVERY_S, Options, Runner
from .source import STDIO, Source

SHOWN_FAILURES = 20
"""Rows that failed and are named on stderr, in one run. All of them stand in the output."""

Write = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    target    path of the output; - is stdout
    sampling  for what a row does not say itself
    options   how the jobs are queued
    chat      a text is sent as a user's message
    in_order  answers are written in the order of the input
    """

    source: Source
    target: str
    sampling: Mapping[str, Any]
    options: Options
    chat: bool
    in_order: bool

    def identity(self, prefix: str) -> Identity:
        """Of all that decides on the answers."""
        template = self.source.template
        return Identity(
            {
                "model": self.options.queue["model"],
                "prefix": prefix,
                "format": self.source.format,
                "template": template.text if template else None,
                "chat": self.chat,
                "sampling": self.sampling,
            }
        )

    def check(self, settings: ProducerSettings) -> None:
        """Raises InvalidRequest for an option that no row could be submitted with."""
        queue = dict(self.options.queue)
        model, sample = queue.pop("model"), parse_request("a prompt", self.sampling)
        prepare([sample], model=model, options=SubmitOptions.parse(queue), settings=settings)


class Batch:
    """A plan that is carried out.  write_stdout: takes lines, where the output is stdout."""

    def __init__(self, plan: Plan, settings: ProducerSettings, write_stdout: Callable[[bytes], None]) -> None:
        self._plan = plan
        self._settings = settings
        self._write_stdout = write_stdout
        self.tally = Tally(None, 0, 0)
        self.in_flight = 0
        """Jobs that go on without us, after an interruption."""
        self._failures_shown = 0

    def run(self) -> bool:
        """Until every row has its answer.  Returns False where Ctrl-C came before.

        Raises GenqueueError for an input or an output that will not do, and BrokerUnavailable where Redis was
        never there; a run that goes on with another's output waits for it.
        """
        self._plan.check(self._settings)
        source, identity = self._plan.source, self._plan.identity(self._settings.prefix)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(source.open())
            done, write = self._open_output(stack, file, identity)
            self.tally = Tally(source.count(), done.rows, done.failed)
            shown = stack.enter_context(display(self.tally))
            if done.rows:
                shown.say(f"{self._plan.target} has {self.tally.rows_of}: going on from there")
            parser = RowParser(self._plan.sampling, chat=self._plan.chat, template=source.template)
            rows = parser.rows(source.records(file), identity, done)
            try:
                asyncio.run(self._run(rows, shown, write, has_begun=done.rows > 0))
            except KeyboardInterrupt:
                return False
            return True

    def _open_output(self, stack: contextlib.ExitStack, file: BinaryIO, identity: Identity) -> tuple[Done, Write]:
        if self._plan.target == STDIO:
            return Done(), lambda line: self._write_stdout(encode(line))
        target = Path(self._plan.target)
        if target.is_file() and os.path.samestat(target.stat(), os.fstat(file.fileno())):
            raise GenqueueError(f"{target} is the input: give another output")
        output = stack.enter_context(OutputFile(target, identity.batch))
        return output.done, output.write

    async def _run(self, rows: Iterator[Row | None], shown: Display, write: Write, *, has_begun: bool) -> None:
        def put(answer: Answer) -> None:
            write(own_line(answer) if answer.row.endpoint is None else openai_line(answer))
            self.tally.count(answer)
            self._name_failure(answer, shown)
            shown.update()

        async with AsyncProducer(settings=self._settings) as producer:
            outbox = Outbox(put, in_order=self._plan.in_order)
            runner = Runner(producer, self._plan.options, outbox, shown.say)
            showing = asyncio.create_task(_keep_showing(shown), name="genqueue-batch-progress")
            try:
                await runner.run(rows, may_begin_without=has_begun)
            finally:
                showing.cancel()
                self.in_flight = runner.in_flight

    def _name_failure(self, answer: Answer, shown: Display) -> None:
        if not answer.failed or self._failures_shown > SHOWN_FAILURES:
            return
        self._failures_shown += 1
        if self._failures_shown > SHOWN_FAILURES:
            shown.say("more rows have failed: they stand in the output, and are counted here")
            return
        code, message = answer.failure
        shown.say(f"line {answer.row.line}: {message} ({code})")


async def _keep_showing(shown: Display) -> None:
    while True:
        await asyncio.sleep(CHECK_EVERY_S)
        shown.update()
