"""A broker and a worker on this machine, for as long as a block lasts: what `genqueue up` and `make demo` run.

The worker is a child process, started as an operator would start it, and spoken to as any script does: through
Redis. Nothing of it is imported here.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from uuid import uuid4

from rich.console import Console
from rich.text import Text

from .broker.child import module_command, tied_command
from .broker.embedded import EmbeddedBroker
from .client import Producer
from .contract import GenqueueError, InvalidRequest
from .job_status import WorkerInfo
from .loopback import why_not
from .printable import printable

POLL_S = 0.1
STOP_TIMEOUT_S = 15.0


class LocalBroker(NamedTuple):
    """The server that a worker of ours is to use."""

    url: str
    ends_with_us: bool


@dataclass(frozen=True)
class LocalWorker:
    """A worker process of ours."""

    model: str
    process: subprocess.Popen[bytes]
    stem: str
    """Of its name among the workers of the model."""

    def check_alive(self) -> None:
        """Raises GenqueueError once it has ended."""
        if (code := self.process.poll()) is not None:
            raise GenqueueError(f"the worker has ended (exit code {code}); its messages stand above")

    def wait_until_ready(self, producer: Producer) -> WorkerInfo:
        """Wait until it has loaded its model, which it bounds itself.  Raises GenqueueError when it has ended."""
        while True:
            self.check_alive()
            for live in self._lives(producer):
                if live.name.startswith(f"{self.stem}-") and live.model_state == "ready":
                    return live
            time.sleep(POLL_S)

    def _lives(self, producer: Producer) -> tuple[WorkerInfo, ...]:
        try:
            return producer.workers(self.model)
        except InvalidRequest:
            return ()  # it is no name: the worker says what to do about it, and ends


def say_dimly(text: str) -> None:
    """A line on stderr that is there for whoever looks."""
    Console(stderr=True).print(Text(printable(text), style="dim"), soft_wrap=True)


def check_installed() -> None:
    """Raises GenqueueError where the worker's half is missing: a bare install is the producer alone."""
    check_not_hidden()
    if any(importlib.util.find_spec(name) is None for name in ("worker", "torch", "transformers")):
        raise GenqueueError("the worker is not installed: pip install 'genqueue[worker,embedded]'")


def check_not_hidden() -> None:
    """Raises GenqueueError where a script of that name is found before the worker's package."""
    spec = importlib.util.find_spec("worker")
    if spec is not None and spec.submodule_search_locations is None:
        raise GenqueueError(f"{spec.origin} hides genqueue's own package `worker`: give that file another name")


@contextlib.contextmanager
def broker_at(redis_url: str | None) -> Iterator[LocalBroker]:
    """The server to use: the given one, else one of our own for as long as the block lasts."""
    if redis_url is not None:
        yield LocalBroker(redis_url, ends_with_us=False)
        return
    with EmbeddedBroker() as broker:
        say_dimly(f"broker  {broker.url}  (embedded; it ends with this command)")
        yield LocalBroker(broker.url, ends_with_us=True)


@contextlib.contextmanager
def local_worker(
    model: str,
    broker: LocalBroker,
    *,
    prefix: str | None = None,
    model_path: Path | None = None,
    device: str | None = None,
) -> Iterator[LocalWorker]:
    """A worker for as long as the block lasts, ended as an operator would end it: with SIGTERM.

    It ends when we are killed, too: at once where its broker goes as well, which then keeps no job to be put back.
        prefix, device: None leaves them to the worker's own settings; model_path: None, to its model paths file.
    """
    stem = f"local-{uuid4().hex[:8]}"
    options = {"--model-name": model, "--name": stem, "--log-level": "warning"}
    options |= {"--prefix": prefix} if prefix else {}
    options |= {"--model-path": str(model_path)} if model_path else {}
    options |= {"--device": device} if device else {}
    command = module_command("worker", "run", *(part for option in options.items() for part in option))
    # In the environment: others see a command line, and the URL may hold a password. A session of its own: Ctrl-C
    # in the terminal is for us, who end it.
    environment = {**os.environ, "GENQUEUE_REDIS_URL": broker.url}
    orphaned = signal.SIGKILL if broker.ends_with_us else signal.SIGTERM
    process = subprocess.Popen(  # noqa: S603 - our own module
        tied_command(command, orphaned), env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        say_dimly(f"worker  pid {process.pid}  {model}{f' on {device}' if device else ''}")
        yield LocalWorker(model, process, stem)
    finally:
        _end(process)


def check_servable(port: int) -> None:
    """Raises GenqueueError where the gateway is not installed, or cannot have its port."""
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "prometheus_client")):
        raise GenqueueError("the gateway is not installed: pip install 'genqueue[gateway]'")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:  # else whoever has the port would be taken for our gateway
        other = port + 1 if 1024 <= port < 65535 else 8001
        raise GenqueueError(
            f"port {port} of 127.0.0.1 cannot be had ({why_not(error)}): give another, as --serve {other}"
        ) from error


@contextlib.contextmanager
def local_gateway(broker: LocalBroker, port: int, *, prefix: str | None = None) -> Iterator[None]:
    """A gateway on this port of 127.0.0.1, for as long as the block lasts. It says itself where it is.

    Raises GenqueueError where it is not installed, or its port is taken, or it ends before it listens.
    """
    check_servable(port)
    arguments = ["--host", "127.0.0.1", "--port", str(port), *(["--prefix", prefix] if prefix else [])]
    command = module_command("producer", "serve", *arguments)
    environment = {**os.environ, "GENQUEUE_REDIS_URL": broker.url}
    process = subprocess.Popen(  # noqa: S603 - our own module
        tied_command(command), env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_it_listens(process, port)
        yield
    finally:
        _end(process)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    while True:
        if process.poll() is not None:
            raise GenqueueError("the gateway has ended; its message stands above")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), POLL_S):
            return
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With SIGTERM; at once, if it takes too long or Ctrl-C is pressed once more."""
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(STOP_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, with a KeyboardInterrupt: nothing is left running.

    Main thread only. One that was ignored at the start, as by `nohup`, stays ignored.
    """

    def end(_signal: int, _frame: FrameType | None) -> None:
        """As Python does it for SIGINT."""
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
