"""The dashboard as a process: where it listens, and when it refuses to."""

import socket
from logging import WARNING, getLogger

import click
from werkzeug.serving import make_server, select_address_family

from ..loopback import is_loopback, why_not
from .app import make_app
from .errors import DashboardError


def serve(
    redis_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 9181,
    username: str | None = None,
    password: str | None = None,
    prefix: str | None = None,
    show_prompts: bool = False,
) -> None:
    """Serve the dashboard until the process is told to end; its address goes to stderr.

    port: 0 takes a free one.  Raises DashboardError for an address beyond loopback without a password, and for one
    that cannot be listened at.
    """
    if not password and not is_loopback(host):
        raise DashboardError(
            f"the dashboard would be open to everyone who can reach {host}: "
            "set GENQUEUE_DASHBOARD_PASSWORD, or bind it to 127.0.0.1"
        )
    app = make_app(redis_url, username=username, password=password, prefix=prefix, show_prompts=show_prompts)
    getLogger("werkzeug").setLevel(WARNING)  # an open page asks every 2.5 s, and each request would be a line
    with _listener(host, port) as listener:
        server = make_server(host, port, app, threaded=True, fd=listener.fileno())
    click.echo(f"dashboard: http://{host}:{server.port}", err=True)
    server.serve_forever()


def _listener(host: str, port: int) -> socket.socket:
    """werkzeug's own ends the process when the address is in use."""
    try:
        return socket.create_server((host, port), family=select_address_family(host, port), backlog=128)
    except OSError as error:
        raise DashboardError(
            f"the dashboard cannot listen at {host}:{port} ({why_not(error)}): give another --port or --host"
        ) from error
