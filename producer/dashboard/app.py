"""The dashboard as a WSGI application."""

from functools import partial
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, current_app, request, url_for
from redis import RedisError
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq_dashboard import web
from werkzeug.exceptions import Conflict, HTTPException, NotFound

from ..broker.connections import address
from ..contract import BrokerUnavailable, Keys, NoSuchJob
from .guard import refuse_changes_from_elsewhere, require_login, require_loopback_name
from .job_page import job_page
from .mending import SHOW_PROMPTS, mend
from .rendering import EscapeInBrowser, ExactNumbers
from .rq_classes import KEYS, JsonQueue, is_ours
from .trouble import ask_redis_first, explain, explain_redis

FOLDER = Path(__file__).parent
JOBS_PAGE = "rq_dashboard.jobs_overview"
"""Its frame holds no jobs; they come as JSON, from another endpoint."""
JOB_PAGE = "rq_dashboard.job_view"


def make_app(
    redis_url: str,
    *,
    username: str | None = None,
    password: str | None = None,
    prefix: str | None = None,
    show_prompts: bool = False,
) -> Flask:
    """The dashboard as a WSGI application.

    prefix: show what is of that prefix only. None: all that uses RQ on the server.
    username, password: asked for by HTTP Basic authentication; without a username any will do. Without a password
    only browsers that reach the dashboard by a loopback name are answered, which a rebound DNS name is not.
    show_prompts: the page of a job has its prompt as well as its answer.
    Raises BrokerUnavailable when the URL is not one; whether Redis answers shows on the pages.
    """
    mend()
    # By that name Flask finds the package's static files. A template of ours stands in front of one of its own.
    app = Flask("rq_dashboard", template_folder=str(FOLDER / "templates"))
    app.config.update(RQ_DASHBOARD_REDIS_URL=redis_url, RQ_DASHBOARD_DISABLE_DELETE=True)
    app.config.update({KEYS: None if prefix is None else Keys(prefix), SHOW_PROMPTS: show_prompts})
    app.json = ExactNumbers(app)
    app.jinja_env.add_extension(EscapeInBrowser)
    app.jinja_env.autoescape = True  # Flask leaves out .js templates, and theirs quote the queue's name
    app.before_request(partial(require_login, username, password) if password else require_loopback_name)
    app.before_request(refuse_changes_from_elsewhere)
    app.before_request(_refuse_other_queues)
    app.before_request(ask_redis_first)
    app.url_value_preprocessor(_begin_with_a_queue_of_ours)
    app.context_processor(_on_every_page)
    app.register_error_handler(HTTPException, explain)
    app.register_error_handler(NoSuchJobError, lambda _: explain(NotFound(str(NoSuchJob()))))
    app.register_error_handler(
        InvalidJobOperation, lambda _: explain(Conflict("Only a failed job can be requeued."))
    )
    app.register_error_handler(RedisError, explain_redis)
    app.register_blueprint(web.blueprint)
    app.register_blueprint(
        Blueprint("genqueue", __name__, static_folder=str(FOLDER / "static"), static_url_path="/genqueue")
    )
    app.view_functions[JOB_PAGE] = job_page
    try:
        web.setup_rq_connection(app)
    except ValueError as error:
        raise BrokerUnavailable(f"the Redis URL is not valid: {error}") from None
    return app


def _on_every_page() -> dict[str, Any]:
    """Which server it is about, without a password; and what the frame of each page needs, ours too."""
    keys: Keys | None = current_app.config[KEYS]
    return {
        "broker": address(current_app.redis_conn),  # type: ignore[attr-defined]
        "shown": "all that uses RQ" if keys is None else f"prefix {keys.prefix}",
        "rq_url_prefix": url_for("rq_dashboard.queues_overview"),
        "rq_version": web.rq_version,
        "rq_dashboard_version": web.rq_dashboard_version,
    }


def _refuse_other_queues() -> None:
    """Of another prefix: what a page would show of them, and what it would do to them."""
    name = (request.view_args or {}).get("queue_name")
    if name is not None and request.endpoint != JOBS_PAGE and not is_ours(name):
        raise NotFound("A queue of another prefix.")


def _begin_with_a_queue_of_ours(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """The Jobs page begins with RQ's queue `default`, which is none of ours."""
    if endpoint == JOBS_PAGE and values and values["queue_name"] is None and not is_ours("default"):
        names = sorted(queue.name for queue in JsonQueue.all(connection=current_app.redis_conn))  # type: ignore[attr-defined]
        values["queue_name"] = next(iter(names), None)
