"""What is wrong, said on a page in place of a bare error: the server that is away, the job that is gone."""

from flask import Response, current_app, jsonify, render_template, request
from redis import RedisError
from werkzeug.exceptions import BadRequest, HTTPException, ServiceUnavailable, Unauthorized

from ..broker.advice import broker_unavailable
from ..broker.connections import address

QUEUES_PAGE = "rq_dashboard.queues_overview"


def explain(error: HTTPException) -> Response:
    """The error as a page of ours, or as JSON for a page's script."""
    response: Response = current_app.make_response(error.get_response())
    text = error.description or error.name
    if _asked_by_a_script():
        body = jsonify(error=text)
    elif isinstance(error, Unauthorized | BadRequest):
        return response  # whoever is not let in cannot load what our pages are made of
    else:
        is_outage = isinstance(error, ServiceUnavailable)
        body = current_app.make_response(
            render_template("genqueue/trouble.html", title=error.name, text=text, is_outage=is_outage)
        )
    response.set_data(body.get_data())
    response.content_type = body.content_type
    response.headers["Cache-Control"] = "no-store"
    return response


def explain_redis(error: RedisError) -> Response:
    """What keeps Redis from answering, and what to do about it."""
    where = address(current_app.redis_conn)  # type: ignore[attr-defined]
    return explain(ServiceUnavailable(str(broker_unavailable(error, where))))


def ask_redis_first() -> None:
    """Ahead of the one page for which rq-dashboard has words of its own, in two: Connection Error."""
    if request.endpoint == QUEUES_PAGE:
        current_app.redis_conn.ping()  # type: ignore[attr-defined]


def _asked_by_a_script() -> bool:
    by_jquery = request.headers.get("X-Requested-With") == "XMLHttpRequest"
    return by_jquery or request.path.endswith(".json") or request.method == "POST"
