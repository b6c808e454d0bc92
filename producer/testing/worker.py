"""A worker that answers as a test says, on a Redis in memory: what the fixture `genqueue_worker` gives.

It speaks the contract over the ledger's own scripts, on one thread, and one job at a time, as a worker on a GPU
does.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import redis

from ..contract.errors import ErrorCode
from ..contract.keys import DEFAULT_PREFIX, check_model_name
from .answers import AnswerFunction, Asked, Text
from .memory import memory
from .serving import Plan, Serving


@contextmanager
def scripted_worker() -> Iterator["ScriptedWorker"]:
    """A scripted worker on a Redis of its own, for as long as the block lasts. The fixture adds the environment.

    Raises, at the end, what a function of `answer_with` has raised.
    """
    with memory() as server:
        worker = ScriptedWorker(server.url, server.client())
        try:
            yield worker
        finally:
            worker.stop()
        if worker.failures:
            raise worker.failures[0]


class ScriptedWorker:
    """Serves jobs of any model and prefix, until `serves` says of which.

    A prompt that has no answer is answered with `scripted answer to: PROMPT`; the prompt of a chat is its last
    message. A token is one character, and its id the code point. Of a request it heeds `max_new_tokens`, where it
    is given, `stop`, `seed`, `logprobs` (each token is sure) and all time-outs; the rest changes nothing. Of an
    answer to a request with tools, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` is a call; and
    of one to a chat, what stands between `<think>` and `</think>` at its beginning is reasoning.
    """

    def __init__(self, url: str, client: redis.Redis) -> None:
        self.url = url
        """For what takes one in place of the environment, as `Producer(worker.url)`."""
        self.client = client
        """A plain client, for a look at what stands in Redis."""
        self._plan = Plan()
        self._serving = Serving(client, self._plan)

    # -- what it was asked

    @property
    def requests(self) -> list[Asked]:
        """What it was given, in the order in which it was taken: `prompt`, `request`, `model`, `job_id` of each.

        A job that comes again, after a crash, is there once.
        """
        return self._plan.requests

    @property
    def prompts(self) -> list[str]:
        """Of its requests."""
        return [asked.prompt for asked in self._plan.requests]

    @property
    def failures(self) -> list[Exception]:
        """What a function of `answer_with` has raised that is no JobError. The first fails the test at its end."""
        return self._plan.failures

    # -- what it answers

    def answers(self, prompt: str, text: Text) -> None:
        """Answer that prompt with the text; a list has the text of each `tokens` event."""
        self._plan.answers.say(prompt, text)

    def answer_with(self, function: AnswerFunction | Mapping[str, Text]) -> None:
        """Have a function answer the prompts that have no answer of their own; or answer those of a mapping.

        The function is given what was asked, see `requests`, on the worker's thread, once for each try at a job.
        It may raise a JobError of `producer`, as OutOfMemory, of which the job fails. Whatever else it raises
        fails the job, too, and at its end the test.
        """
        self._plan.answers.answer_with(function)

    def fails(
        self, prompt: str, code: ErrorCode | str = "engine_error", message: str = "", *, after: Text = ""
    ) -> None:
        """Fail that prompt's jobs with the code.  after: the text that they get before."""
        self._plan.answers.fail(prompt, code, message, after)

    @property
    def chunk_chars(self) -> int:
        """Characters of each `tokens` event, of the one-text answers that are given from now on; 4 at first."""
        return self._plan.answers.chunk_chars

    @chunk_chars.setter
    def chunk_chars(self, characters: int) -> None:
        if characters < 1:
            raise ValueError("chunk_chars is a number of characters from 1")
        self._plan.answers.chunk_chars = characters

    # -- when, and whether

    @property
    def delay_s(self) -> float:
        """Before each `tokens` event, in seconds; inf: until it is set again. It may be set while a job runs."""
        return self._plan.delay_s

    @delay_s.setter
    def delay_s(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError("delay_s is a number of seconds from 0; inf: until it is set again")
        self._plan.delay_s = seconds
        self._serving.ring()

    def crash_after(self, tokens: int) -> None:
        """Die over the next job, as with kill -9, once so many tokens of it are published, or all that there are.

        Another worker goes on after the last of them. Said several times, it is one death after the other; after
        three over one job that job fails as `worker_lost`.
        """
        if tokens < 0:
            raise ValueError("crash_after takes a number of tokens from 0")
        self._plan.deaths.append(tokens)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, it takes no job: those that come wait in line, and expire once their queue_ttl_s is over."""
        self._serving.pause(True)
        try:
            yield
        finally:
            self._serving.pause(False)

    def serves(self, *models: str, prefix: str = DEFAULT_PREFIX) -> None:
        """Serve those models and no other, and be seen at once as their worker. None at all: nobody serves."""
        self._serving.seat_at(frozenset(map(check_model_name, models)), prefix)

    @property
    def models(self) -> tuple[str, ...]:
        """Those that it serves by now: of `serves`, or those that jobs have come for."""
        return self._serving.models

    def stop(self) -> None:
        """Take no more jobs. One that runs is left as it is."""
        self._serving.stop()
