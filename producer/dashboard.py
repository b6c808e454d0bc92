"""rq-dashboard, set up for our JSON jobs: queues, jobs and workers in a browser.

Knows rq-dashboard 0.9 and what has to be mended in it; knows nothing of generation. rq-dashboard reads jobs with
pickle, RQ's default, wherever it builds one of RQ's classes itself. With JSON jobs that is a 500 on the Workers
page as soon as a worker is busy, on every job that depends on another and on every unknown id; with a hostile job
it is code run inside the dashboard. `_mend` replaces names of its module, so that it reads JSON and nothing else.

It is meant for looking. Deleting is switched off, because it would take a job away from its subscribers without a
terminal event (`genqueue cancel JOB` ends it properly); a requeue is accepted from the dashboard's own pages only.
"""

import ipaddress
import re
from functools import lru_cache, partial
from hmac import compare_digest
from logging import WARNING, getLogger
from typing import Any
from urllib.parse import urlsplit

import click
from redis import Redis, RedisError
from rq import Queue, Worker
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer

from .broker import urls
from .contract import BrokerUnavailable, GenqueueError, NoSuchJob


class DashboardError(GenqueueError):
    """The dashboard cannot start."""


class DashboardNotInstalled(DashboardError, ImportError):
    """rq-dashboard is not installed: pip install 'genqueue[dashboard]'"""


try:
    from flask import Flask, request
    from jinja2.ext import Extension
    from rq_dashboard import web
    from werkzeug.datastructures import WWWAuthenticate
    from werkzeug.exceptions import (
        BadRequest,
        Conflict,
        Forbidden,
        MethodNotAllowed,
        NotFound,
        ServiceUnavailable,
        Unauthorized,
    )
    from werkzeug.serving import make_server
except ImportError as missing:
    raise DashboardNotInstalled from missing

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REQUEUE_ALL = "rq_dashboard.requeue_all"
"""The one endpoint of rq-dashboard that changes something on a GET."""


def make_app(redis_url: str, *, username: str | None = None, password: str | None = None) -> Flask:
    """The dashboard as a WSGI application.

    username, password: asked for by HTTP Basic authentication; without a username any will do. Without a password
    only browsers that reach the dashboard by a loopback name are answered, which a rebound DNS name is not.
    Raises BrokerUnavailable when the URL is not one; whether Redis answers shows on the pages.
    """
    _mend()
    app = Flask("rq_dashboard")  # by that name Flask finds the package's static files
    app.config.update(RQ_DASHBOARD_REDIS_URL=redis_url, RQ_DASHBOARD_DISABLE_DELETE=True)
    app.jinja_env.add_extension(_EscapeInBrowser)
    app.jinja_env.autoescape = True  # Flask leaves out .js templates, and theirs quote the queue's name
    app.before_request(partial(_require_login, username, password) if password else _require_loopback_name)
    app.before_request(_refuse_changes_from_elsewhere)
    app.register_error_handler(NoSuchJobError, lambda _: NotFound(str(NoSuchJob())))
    app.register_error_handler(InvalidJobOperation, lambda _: Conflict("Only a failed job can be requeued."))
    app.register_error_handler(RedisError, lambda error: ServiceUnavailable(f"Redis cannot be used: {error}"))
    app.register_blueprint(web.blueprint)
    try:
        web.setup_rq_connection(app)
    except ValueError:
        # Without the cause: its message may quote the URL, which may hold a password.
        raise BrokerUnavailable(
            "the Redis URL is not valid: it has the form redis://:PASSWORD@HOST:6379/0"
        ) from None
    return app


def serve(
    redis_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 9181,
    username: str | None = None,
    password: str | None = None,
) -> None:
    """Serve the dashboard until the process is told to end; its address goes to stderr.

    port: 0 takes a free one.  Raises DashboardError for an address beyond loopback without a password.
    """
    if not password and not _is_loopback(host):
        raise DashboardError(
            f"the dashboard would be open to everyone who can reach {host}: "
            "set GENQUEUE_DASHBOARD_PASSWORD, or bind it to 127.0.0.1"
        )
    app = make_app(redis_url, username=username, password=password)
    getLogger("werkzeug").setLevel(WARNING)  # an open page asks every 2.5 s, and each request would be a line
    server = make_server(host, port, app, threaded=True)
    click.echo(f"dashboard: http://{host}:{server.port}", err=True)
    server.serve_forever()


class _JsonJob(Job):
    """A job as the pages show it: read as JSON, and never by its arguments."""

    def __init__(self, id: str | None = None, connection: Redis | None = None, *_: Any, **__: Any) -> None:  # noqa: A002
        # Every way to a job ends here, whatever serializer it was sent with.
        try:
            super().__init__(id, connection, serializer=JSONSerializer)
        except ValueError as error:  # RQ's word for an id that no job can have
            raise NoSuchJobError(str(error)) from error

    def restore(self, raw_data: Any) -> Any:
        """RQ's. A hash that RQ cannot read, which anybody can write, is shown as a bare job and hides no other."""
        try:
            return super().restore(raw_data)
        except Exception:  # noqa: BLE001
            return super().restore({b"data": b""})

    @property
    def dependency_ids(self) -> list[bytes]:  # type: ignore[override]
        """As bytes: rq-dashboard decodes them, as RQ 1 wanted it."""
        return [job_id.encode() for job_id in super().dependency_ids]

    def get_call_string(self) -> str | None:
        """What the job is called. RQ's own quotes the arguments, and with them the prompt."""
        return self.description or self.id

    def latest_result(self, timeout: int = 0) -> Result | None:
        """RQ's. Another application's job is listed, without its pickled value."""
        try:
            return super().latest_result(timeout)
        except ValueError:
            return None

    def get_meta(self, refresh: bool = True) -> dict[str, Any]:
        """RQ's; empty where it is not JSON."""
        try:
            return super().get_meta(refresh)
        except ValueError:
            return {}


class _JsonQueue(Queue):
    """A queue whose jobs are read as JSON."""

    job_class = _JsonJob


class _JsonWorker(Worker):
    """A worker whose current job is read as JSON."""

    job_class = _JsonJob

    def get_current_job(self) -> Job | None:
        """RQ's. A job that was deleted under its worker is no reason to list no worker at all."""
        try:
            return super().get_current_job()
        except NoSuchJobError:
            return None


@lru_cache
def _client(url: str) -> Redis:
    return urls.client(url)


def _from_url(url: str, **_: Any) -> tuple[None, Redis]:
    """rq-dashboard's own makes a pool for every request, and leaves out TLS and user names behind Sentinels."""
    return None, _client(url)


def _mend() -> None:
    """Replace the names through which rq-dashboard would unpickle, and the one by which it connects."""
    web.config.serializer = JSONSerializer  # its own switch, which reaches half of the places
    web.Job = _JsonJob
    web.Queue = _JsonQueue
    web.Worker = _JsonWorker
    web.requeue_job = _requeue
    web.from_url = _from_url


def _requeue(job_id: str, connection: Redis) -> Job:
    return _JsonJob.fetch(job_id, connection).requeue()


class _EscapeInBrowser(Extension):
    """Turns `<%= … %>` of the Underscore templates into `<%- … %>`, which escapes HTML.

    The pages fill their tables with what jobs hold, a model's output among it: as HTML it would be run.
    """

    #: Some places escape already, through jQuery.
    _UNESCAPED = re.compile(r"<%=(?!\s*\$\('<div/>'\))")

    def preprocess(self, source: str, *_: Any, **__: Any) -> str:
        """The template with its places escaped; Jinja calls this before it compiles one."""
        return self._UNESCAPED.sub("<%-", source)


def _require_login(username: str | None, password: str) -> None:
    given = request.authorization
    # Both are compared, and in constant time, so that the answer's delay tells nothing.
    name_matches = username is None or _same(given.username if given else None, username)
    if not (_same(given.password if given else None, password) and name_matches):
        raise Unauthorized(www_authenticate=WWWAuthenticate("basic", {"realm": "genqueue dashboard"}))


def _same(given: str | None, wanted: str) -> bool:
    return compare_digest((given or "").encode(), wanted.encode())


def _require_loopback_name() -> None:
    if not _is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        raise BadRequest("Without a password the dashboard answers to localhost only.")


def _refuse_changes_from_elsewhere() -> None:
    """Browsers send a Basic login along with other sites' forms, and rq-dashboard asks for no token.

    The rule is that of Go's net/http.CrossOriginProtection: a browser says where a request comes from.
    """
    if request.method in SAFE_METHODS:
        if request.endpoint == REQUEUE_ALL:
            raise MethodNotAllowed(valid_methods=["POST"])
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        allowed = origin is None or urlsplit(origin).netloc == request.host
    if not allowed:
        raise Forbidden("Changes are accepted from the dashboard's own pages only.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
