"""A gateway as a process: where it listens, when it refuses to, and how it ends."""

import asyncio
import contextlib
import gc
import logging
import resource
import socket

import click
import uvicorn
from starlette.applications import Starlette

from ..contract import GenqueueError, InvalidRequest
from ..log_lines import TextFormatter
from ..loopback import is_loopback, why_not
from ..settings import ProducerSettings
from .app import make_app
from .connections import bounded_by
from .settings import GatewaySettings

SHUTDOWN_S = 1
"""A stream that is cut off is taken up again elsewhere: nobody is to wait for its end."""
KEEP_ALIVE_S = 20


class CutStreams(logging.Filter):
    """Leaves out that a stream was cut by the end of the process: there may be thousands, each a page of text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is something else."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def serve(settings: GatewaySettings, producer_settings: ProducerSettings) -> None:
    """Serve until the process is told to end; the address goes to stderr.

    Raises InvalidRequest for an address beyond loopback without API keys, and GenqueueError for one that cannot be
    listened at.
    """
    if settings.api_keys is None and not is_loopback(settings.host):
        raise InvalidRequest(
            f"the gateway would be open to everyone who can reach {settings.host}: give --api-keys, or bind it to "
            "127.0.0.1"
        )
    app = make_app(settings, producer_settings)
    allow_many_files()
    gc.collect()
    gc.freeze()  # what is imported stays: to go through it for garbage again and again would hold up every stream
    config = server_config(app, settings)
    with _listener(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        click.echo(f"gateway: http://{host}:{port}/v1", err=True)
        if settings.page:
            click.echo(f"page:    http://{host}:{port}/", err=True)
        keep_log()
        uvicorn.Server(config).run(sockets=[listener])


def keep_log() -> None:
    """On stderr, each line with its time, and below it a traceback where there is one; libraries' lines, too."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("producer").handlers.clear()  # a command's own shows messages alone
    logging.getLogger("uvicorn.error").addFilter(CutStreams())


def allow_many_files() -> None:
    """As many connections as the system lets this process have: its first limit, often 1024, is for `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems name a limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def server_config(app: Starlette, settings: GatewaySettings) -> uvicorn.Config:
    """How uvicorn runs it."""
    return uvicorn.Config(
        app,
        http=bounded_by(settings.head_s),
        log_config=None,  # ours
        log_level="warning",
        access_log=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        server_header=False,
    )


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise GenqueueError(
            f"the gateway cannot listen at {host}:{port} ({why_not(error)}): give another --port or --host"
        ) from error
