"""What the engine's process does: holds the model, runs one job at a time, and answers over its socket.

Knows the engine and the protocol. Knows no Redis, no RQ and no asyncio; how the process ends is in `server`.
"""

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from producer.contract import EngineError, GenerationRequest, JobError, OutOfMemory

from ..engine import SMALL_MODEL_PARAMETERS, Engine, Generation, Step, TokenIds, resolve_device, set_threads
from ..engine.faults import device_answers, is_device_fault, is_out_of_memory, memory_for_the_model
from ..engine.loading.device import card_of
from ..engine.loading.facts import device_name, torch_version
from ..errors import ConfigError
from ..progress import ReportProgress
from .background import Background
from .card import Neighbour, Place
from .protocol import (
    COMMANDS,
    Accepted,
    Answer,
    Begun,
    Command,
    Ended,
    EngineConfig,
    EngineInfo,
    Generate,
    Loading,
    RunFailed,
    StepMessage,
    Stop,
    steps_line,
)

logger = logging.getLogger(__name__)

SEND_INTERVAL_S = 0.003
"""A token's way wakes worker, server and subscriber, which costs more than its bytes. Tokens that come faster than
this leave together; one waits for the next step at most, which is then as short."""

READ_BYTES = 2**20

SHORT_PROMPT_CHARS = 4_000
"""A prompt of no more is tokenized within milliseconds, and a thread for it would cost a good part of that."""


class EngineServer:
    """Answers the commands that come over a socket, until the other end closes it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = bytearray()
        self._unsent: list[StepMessage] = []
        self._sent_at = 0.0
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._background = Background()
        self._either = select.poll()
        self._either.register(connection, select.POLLIN)
        self._either.register(self._background, select.POLLIN)

    def serve(self, load: Callable[[ReportProgress], Engine]) -> None:
        """Load the engine and run jobs.  Returns when the worker has gone."""
        with closing(self._background):
            self._serve(load)

    def _serve(self, load: Callable[[ReportProgress], Engine]) -> None:
        started_at = time.monotonic()
        engine = load(self._say)
        loaded_at = time.monotonic()
        with memory_for_the_model(str(engine.device)):
            engine.warm_up(self._say)
        self._send(describe(engine, loaded_at - started_at, time.monotonic() - loaded_at))
        while (command := self._receive()) is not None:
            if isinstance(command, Generate):  # a Stop that comes too late is of no use to anybody
                self._run(engine, command)

    def _say(self, stage: str, done: int, total: int) -> None:
        self._send(Loading(stage=stage, done=done, total=total))

    def _run(self, engine: Engine, command: Generate) -> None:
        self._send(Begun())
        try:
            self._generate(engine, command)
        except (BrokenPipeError, ConnectionResetError):
            raise  # the worker has gone, and with it whoever wanted to know
        except Exception as error:
            if is_device_fault(error) or not device_answers(engine.device):
                raise  # nothing is said of the job: it is the engine that ends, and the job goes on in another
            self._send(_failure(error))

    def _generate(self, engine: Engine, command: Generate) -> None:
        request = GenerationRequest.parse(command.request)
        prompt_ids = self._encode(engine, request, command.run)
        if isinstance(prompt_ids, Stop):
            tail = engine.answers.held_back(request, command.resumed_ids) if prompt_ids.flush else ""
            self._send(Ended(tail=tail))
            return
        engine.keep_parked(command.parked)
        generation = engine.start(request, prompt_ids, seed=command.seed, resumed_ids=command.resumed_ids)
        self._send(
            Accepted(
                prompt_tokens=generation.prompt_tokens,
                given_text=generation.given_text,
                markup=engine.answers.markup(request, prompt_ids),
                finish_reason=generation.finish_reason,
                stop=generation.stop,
            )
        )
        with closing(generation):
            stop = self._run_to_end(generation, command.run)
        if stop and stop.park:
            generation.park(command.run)
        tail = generation.flush() if stop and stop.flush else ""
        self._send(Ended(prefill_ms=generation.prefill_ms, cached_tokens=generation.cached_tokens, tail=tail))

    def _encode(self, engine: Engine, request: GenerationRequest, run: int) -> TokenIds | Stop:
        """The prompt's token ids, (seq_len,) int64; or the command to stop, if that comes first.

        A tokenization that is given up runs on to its end, and the next one waits for it.
        """
        if _prompt_chars(request) <= SHORT_PROMPT_CHARS and self._background.is_idle:
            return engine.encode(request)
        encoding = self._background.begin(partial(engine.encode, request))
        while not encoding.done():
            if stop := self._stop_command(run):
                encoding.cancel()
                return stop
            if b"\n" not in self._received:
                self._either.poll()
                self._background.hear()
        return encoding.result()

    def _run_to_end(self, generation: Generation, run: int) -> Stop | None:
        """Send each step as it comes, until the generation ends or a command to stop arrives."""
        if stop := self._stop_command(run):
            return stop
        for _ in generation.prefill():
            if stop := self._stop_command(run):
                return stop
        for step in generation:
            self._unsent.append(message := _message(step))
            if message.sampled_at - self._sent_at >= SEND_INTERVAL_S and not step.has_next:
                self._sent_at = message.sampled_at
                self._send_steps()
                if stop := self._stop_command(run):
                    return stop
        return None

    def _stop_command(self, run: int) -> Stop | None:
        # One read may have brought a Stop along with the command before it: the socket alone does not tell.
        if b"\n" not in self._received and not self._poll.poll(0):
            return None
        command = self._receive()
        if command is None:
            raise BrokenPipeError("the worker has gone")
        return command if isinstance(command, Stop) and command.run == run else None

    def _receive(self) -> Command | None:
        end = self._received.find(b"\n")
        while end < 0:
            received = self._socket.recv(READ_BYTES)
            if not received:
                return None
            searched = len(self._received)
            self._received += received
            end = self._received.find(b"\n", searched)  # a long prompt comes in many pieces
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return COMMANDS.validate_json(line)

    def _send(self, answer: Answer) -> None:
        self._send_steps()
        self._socket.sendall(answer.model_dump_json().encode() + b"\n")

    def _send_steps(self) -> None:
        if self._unsent:
            self._socket.sendall(steps_line(self._unsent))
            self._unsent.clear()


def _prompt_chars(request: GenerationRequest) -> int:
    """About as many as there are to be tokenized: a template writes out calls, reasoning and tools as well."""
    parts = (*(request.messages or ()), *((request.tools or ()) if request.calls_tools else ()))
    chat = sum(len(part.model_dump_json(exclude_defaults=True)) for part in parts)
    return len(request.prompt or "") + chat + len(str(request.chat_template_kwargs or ""))


def _failure(error: Exception) -> RunFailed:
    """What is said of a job that has failed by itself."""
    if not isinstance(error, JobError):
        logger.error("the engine failed on a job", exc_info=error)
        name = type(error).__name__
        error = (
            OutOfMemory()
            if is_out_of_memory(error)
            else EngineError(f"the engine failed with {name}; see the worker's log")
        )
    return RunFailed(code=error.code, message=str(error))


def _message(step: Step) -> StepMessage:
    logprob = step.logprob.model_dump() if step.logprob else None
    return StepMessage(time.monotonic(), step.token_id, step.text, step.finish_reason, step.stop, logprob)


def describe(engine: Engine, load_s: float, warm_up_s: float) -> EngineInfo:
    """What the engine is, for its worker."""
    return EngineInfo(
        device=str(engine.device),
        dtype=str(engine.dtype).removeprefix("torch."),
        parameters=engine.parameters,
        context_length=engine.context_length,
        kv_bytes=engine.memory.kv_bytes,
        headroom_bytes=engine.memory.headroom_bytes,
        chat_template=engine.tokenizer.has_chat_template,
        tool_format=engine.tokenizer.chat_template.tool_format,
        path=engine.path.name,
        compiled=engine.path.compiled,
        captured=engine.path.captured,
        why=engine.why,
        load_s=load_s,
        warm_up_s=warm_up_s,
        device_name=device_name(engine.device),
        torch=torch_version(),
        small_weights=engine.small_weights,
    )


def load_engine(config: EngineConfig, progress: ReportProgress) -> Engine:
    """The engine of a process that has no other.  Raises ConfigError."""
    if config.threads:
        set_threads(config.threads)
    device = resolve_device(config.device)
    with _beside_others(card_of(device), config), memory_for_the_model(config.device):
        engine = Engine.load(config.model_path, device, config.dtype, config.options, progress)
    if not config.threads and engine.parameters < SMALL_MODEL_PARAMETERS:
        set_threads(1)
    return engine


@contextmanager
def _beside_others(card: str | None, config: EngineConfig) -> Iterator[None]:
    """For loading a model: says who computes on the card already, also where that leaves no room for two."""
    ours = Neighbour(os.getppid(), os.getpid(), config.model_name or config.model_path.name)
    others = Place(card, ours).neighbours if card else []
    said = f"{config.device} is also used by {', '.join(map(str, others))}"
    try:
        yield
    except ConfigError as error:
        if others:
            raise ConfigError(f"{error}. {said}: a worker takes all memory up to its context_length") from error
        raise
    if others:
        logger.warning("%s: they share its memory and its time", said)
