"""Whom the dashboard answers, and what it lets them change."""

from hmac import compare_digest
from urllib.parse import urlsplit

from flask import request
from werkzeug.datastructures import Authorization, WWWAuthenticate
from werkzeug.exceptions import BadRequest, Forbidden, MethodNotAllowed, Unauthorized

from ..loopback import is_loopback

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REQUEUE_ALL = "rq_dashboard.requeue_all"
"""The one endpoint of rq-dashboard that changes something on a GET."""


def require_login(username: str | None, password: str) -> None:
    """HTTP Basic authentication, for every path.  username: None takes any."""
    given = _basic_login()
    # Both are compared, and in constant time, so that the answer's delay tells nothing.
    name_matches = username is None or _same(given.username if given else None, username)
    if not (_same(given.password if given else None, password) and name_matches):
        raise Unauthorized(www_authenticate=WWWAuthenticate("basic", {"realm": "genqueue dashboard"}))


def _basic_login() -> Authorization | None:
    """None where there is none, or what is sent is not read as one."""
    try:
        given = request.authorization
    except ValueError:  # werkzeug (3.1) raises it for what is no ASCII
        return None
    return given if given is not None and given.type == "basic" else None


def _same(given: str | None, wanted: str) -> bool:
    return compare_digest((given or "").encode(), wanted.encode())


def require_loopback_name() -> None:
    """A page elsewhere can point its own name at 127.0.0.1, but the browser sends that name."""
    if not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        raise BadRequest("Without a password the dashboard answers to localhost only.")


def refuse_changes_from_elsewhere() -> None:
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
        allowed = origin is None or origin.partition("://")[2] == request.host
    if not allowed:
        raise Forbidden("Changes are accepted from the dashboard's own pages only.")
