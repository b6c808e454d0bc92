"""rq-dashboard, set up for our JSON jobs: queues, jobs and workers in a browser.

Knows rq-dashboard 0.9 and what has to be mended in it; knows nothing of generation. rq-dashboard reads jobs with
pickle, RQ's default, wherever it builds one of RQ's classes itself. With JSON jobs that is a 500 on the Workers
page as soon as a worker is busy, on every job that depends on another and on every unknown id; with a hostile job
it is code run inside the dashboard. `_mend` replaces names of its module, so that it reads JSON and nothing else.

It shows one of several deployments on a server, the queues, workers and jobs of one prefix, unless asked for all.

It is meant for looking. Deleting is switched off, because it would take a job away from its subscribers without a
terminal event (`genqueue cancel JOB` ends it properly); a requeue is accepted from the dashboard's own pages only.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
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
from rq.worker import BaseWorker

from .broker import urls
from .contract import BrokerUnavailable, GenqueueError, Keys, NoSuchJob


class DashboardError(GenqueueError):
    """The dashboard cannot start."""


class DashboardNotInstalled(DashboardError, ImportError):
    """rq-dashboard is not installed: pip install 'genqueue[dashboard]'"""


try:
    from flask import Flask, current_app, request
    from flask.json.provider import DefaultJSONProvider
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
    from werkzeug.serving import make_server, select_address_family
except ImportError as missing:
    raise DashboardNotInstalled from missing

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REQUEUE_ALL = "rq_dashboard.requeue_all"
"""The one endpoint of rq-dashboard that changes something on a GET."""
JOBS_PAGE = "rq_dashboard.jobs_overview"
"""Its frame holds no jobs; they come as JSON, from another endpoint."""
EXACT_IN_BROWSER = 2**53
"""Up to here JavaScript's numbers are exact."""


def make_app(
    redis_url: str, *, username: str | None = None, password: str | None = None, prefix: str | None = None
) -> Flask:
    """The dashboard as a WSGI application.

    prefix: show what is of that prefix only. None: all that uses RQ on the server.
    username, password: asked for by HTTP Basic authentication; without a username any will do. Without a password
    only browsers that reach the dashboard by a loopback name are answered, which a rebound DNS name is not.
    Raises BrokerUnavailable when the URL is not one; whether Redis answers shows on the pages.
    """
    _mend()
    app = Flask("rq_dashboard")  # by that name Flask finds the package's static files
    keys = None if prefix is None else Keys(prefix)
    app.config.update(RQ_DASHBOARD_REDIS_URL=redis_url, RQ_DASHBOARD_DISABLE_DELETE=True, GENQUEUE_KEYS=keys)
    app.json = _ExactNumbers(app)
    app.jinja_env.add_extension(_EscapeInBrowser)
    app.jinja_env.autoescape = True  # Flask leaves out .js templates, and theirs quote the queue's name
    app.before_request(partial(_require_login, username, password) if password else _require_loopback_name)
    app.before_request(_refuse_changes_from_elsewhere)
    app.before_request(_refuse_other_queues)
    app.url_value_preprocessor(_begin_with_a_queue_of_ours)
    app.register_error_handler(NoSuchJobError, lambda _: NotFound(str(NoSuchJob())))
    app.register_error_handler(InvalidJobOperation, lambda _: Conflict("Only a failed job can be requeued."))
    app.register_error_handler(RedisError, lambda error: ServiceUnavailable(f"Redis cannot be used: {error}"))
    app.register_blueprint(web.blueprint)
    try:
        web.setup_rq_connection(app)
    except ValueError as error:
        raise BrokerUnavailable(f"the Redis URL is not valid: {error}") from None
    return app


def serve(
    redis_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 9181,
    username: str | None = None,
    password: str | None = None,
    prefix: str | None = None,
) -> None:
    """Serve the dashboard until the process is told to end; its address goes to stderr.

    port: 0 takes a free one.  Raises DashboardError for an address beyond loopback without a password, and for one
    that cannot be listened at.
    """
    if not password and not _is_loopback(host):
        raise DashboardError(
            f"the dashboard would be open to everyone who can reach {host}: "
            "set GENQUEUE_DASHBOARD_PASSWORD, or bind it to 127.0.0.1"
        )
    app = make_app(redis_url, username=username, password=password, prefix=prefix)
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
        # Python's own words repeat the address; those of a name server have a negative number.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise DashboardError(
            f"the dashboard cannot listen at {host}:{port} ({why}): give another --port or --host"
        ) from error


def _is_ours(queue_name: str) -> bool:
    """Whether it is a queue that this dashboard shows."""
    keys: Keys | None = current_app.config["GENQUEUE_KEYS"]
    return keys is None or keys.model_of_queue(queue_name) is not None


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


class _ShownJob(_JsonJob):
    """A job that is asked for by its id. RQ's queues must not use it: they drop the jobs that they do not find."""

    @classmethod
    def fetch(cls, *args: Any, **options: Any) -> "_ShownJob":
        """RQ's.  Raises NoSuchJobError for a job of another prefix."""
        job = super().fetch(*args, **options)
        if not _is_ours(job.origin):
            raise NoSuchJobError("a job of another prefix")
        return job  # type: ignore[return-value]


class _JsonQueue(Queue):
    """A queue whose jobs are read as JSON."""

    job_class = _JsonJob

    @classmethod
    def all(cls, *args: Any, **options: Any) -> list[Queue]:
        """RQ's, without those of other prefixes."""
        return [queue for queue in super().all(*args, **options) if _is_ours(queue.name)]


class _JsonWorker(Worker):
    """A worker whose current job is read as JSON."""

    job_class = _JsonJob

    @classmethod
    def all(cls, *args: Any, **options: Any) -> list[BaseWorker]:
        """RQ's, without those of other prefixes."""
        return [worker for worker in super().all(*args, **options) if any(map(_is_ours, worker.queue_names()))]

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
    web.Job = _ShownJob
    web.Queue = _JsonQueue
    web.Worker = _JsonWorker
    web.requeue_job = _requeue
    web.from_url = _from_url


def _requeue(job_id: str, connection: Redis) -> Job:
    return _ShownJob.fetch(job_id, connection).requeue()


class _EscapeInBrowser(Extension):
    """Turns `<%= … %>` of the Underscore templates into `<%- … %>`, which escapes HTML.

    The pages fill their tables with what jobs hold, a model's output among it: as HTML it would be run.
    """

    #: Some places escape already, through jQuery.
    _UNESCAPED = re.compile(r"<%=(?!\s*\$\('<div/>'\))")

    def preprocess(self, source: str, *_: Any, **__: Any) -> str:
        """The template with its places escaped; Jinja calls this before it compiles one."""
        return self._UNESCAPED.sub("<%-", source)


class _ExactNumbers(DefaultJSONProvider):
    """JSON in which a number that JavaScript would round, as a seed may be, is written as text."""

    def dumps(self, obj: Any, **options: Any) -> str:
        """Flask's."""
        return super().dumps(_with_exact_numbers(obj), **options)


def _with_exact_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_exact_numbers(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_exact_numbers(part) for part in value]
    is_rounded = isinstance(value, int) and not isinstance(value, bool) and abs(value) > EXACT_IN_BROWSER
    return str(value) if is_rounded else value


def _refuse_other_queues() -> None:
    """Of another prefix: what a page would show of them, and what it would do to them."""
    name = (request.view_args or {}).get("queue_name")
    if name is not None and request.endpoint != JOBS_PAGE and not _is_ours(name):
        raise NotFound("A queue of another prefix.")


def _begin_with_a_queue_of_ours(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """The Jobs page begins with RQ's queue `default`, which is none of ours."""
    if endpoint == JOBS_PAGE and values and values["queue_name"] is None and not _is_ours("default"):
        names = sorted(queue.name for queue in _JsonQueue.all(connection=current_app.redis_conn))  # type: ignore[attr-defined]
        values["queue_name"] = next(iter(names), None)


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
