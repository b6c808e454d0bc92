"""What a caller can do about an error of Redis. Knows redis-py, and nothing of jobs.

What the error means is in `meaning`, the one table for producers and workers.
"""

import redis

from ..contract import BrokerUnavailable
from .meaning import meaning, said, text_of


def is_transient(error: redis.RedisError) -> bool:
    """Whether a follower should go on trying: the server is away, loads, is busy or full, or is no primary now."""
    return meaning(error) == "outage" or is_elsewhere(error)


def is_elsewhere(error: redis.RedisError) -> bool:
    """Whether this server refuses what another one may take by now: it was demoted, or has lost its primary.

    The connections to it stay open, and must be dropped: a new one leads to the new primary.
    """
    if isinstance(error, (redis.ReadOnlyError, redis.exceptions.MasterDownError)):
        return True
    # Out of a script it is a plain ResponseError on some servers.
    return isinstance(error, redis.ResponseError) and any(word in text_of(error) for word in _ELSEWHERE_WORDS)


def may_pass(error: redis.RedisError) -> bool:
    """Whether waiting can help whoever cannot connect: not where the URL, or what stands at its end, must change.

    Such are a wrong password, a certificate that is not trusted, and TLS at one end alone. A server that hangs
    up or says nothing may be one that starts.
    """
    words = said(error)
    return not isinstance(error, _LASTING_CLASSES) and not any(word in words for word in _LASTING_WORDS)


def broker_unavailable(
    error: redis.RedisError, where: str = "", *, job_id: str | None = None
) -> BrokerUnavailable:
    """What the error of redis-py means, and what to do about it, for producers and workers alike.

    where: the `address`, if it is known. A URL does not belong there: it may hold a password.
    job_id: of the job that is waited for.
    """
    subject = f"Redis at {where}" if where else "Redis"
    what, hint = _advice(error)
    return BrokerUnavailable(f"{subject} cannot be used: {what}: {hint}", job_id=job_id, hint=hint)


def _advice(error: redis.RedisError) -> tuple[str, str]:
    """What is wrong, and what to do."""
    text = text_of(error)
    words = said(error)
    for classes, known, advice in _ADVICE:
        if isinstance(error, classes) or any(word in words for word in known):
            what, _, hint = advice.partition(": ")
            return what.format(text=text), hint.format(text=text)
    hint = "try again in a moment" if meaning(error) == "outage" else "see what stands there, and the server's log"
    return f"it refused a command ({text})", hint


_LASTING_CLASSES = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.InvalidResponse,
)
_ELSEWHERE_WORDS = ("READONLY", "read only replica", "MASTERDOWN", "UNBLOCKED")
_LASTING_WORDS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")

# From the particular to the general: redis-py's authentication and loading errors are ConnectionErrors. An error
# out of a script is a plain ResponseError on some servers, so that its words count as well.
_ADVICE: tuple[tuple[tuple[type[Exception], ...], tuple[str, ...], str], ...] = (
    (
        (),
        ("NOAUTH", "Authentication required", "client already authenticated"),  # the last answers redis-py's HELLO
        "it needs a password: put it into the URL, as in redis://:PASSWORD@host:6379/0",
    ),
    (
        (redis.AuthenticationError,),
        ("WRONGPASS",),
        "it refused the user name or password: correct them in the URL, as in redis://USER:PASSWORD@host:6379/0, "
        "or redis://:PASSWORD@host:6379/0 without a user name; special characters in them are percent-encoded, "
        "%25 for % among them",
    ),
    (
        (redis.exceptions.NoPermissionError, redis.exceptions.AuthorizationError),
        ("NOPERM", "has no permissions", "ACL failure"),
        "it does not let this user do that ({text}): extend the user's ACL",
    ),
    (
        (redis.ReadOnlyError,),
        ("READONLY", "read only replica"),
        "it is a read-only replica: use the URL of its primary",
    ),
    (
        (redis.exceptions.MasterDownError,),
        ("MASTERDOWN",),
        "it is a replica that has lost its primary: try again in a moment, or use the URL of the primary",
    ),
    (
        (),
        ("DB index is out of range", "invalid DB index"),
        "it has no database of that number: the number at the end of the URL, as in redis://host:6379/0, is below "
        "its setting `databases`",
    ),
    (
        (redis.exceptions.OutOfMemoryError,),
        ("OOM",),
        "it is out of memory; nothing was changed: raise its maxmemory, or wait for keys to expire",
    ),
    (
        (redis.BusyLoadingError,),
        ("LOADING",),
        "it is still loading its data: try again in a moment",
    ),
    (
        (redis.exceptions.MaxConnectionsError,),
        (),
        "every connection of the pool is in use: give the pool more of them",
    ),
    (
        (),
        ("CERTIFICATE_VERIFY_FAILED",),
        "its certificate is not trusted ({text}): name the CA that signed it, as in "
        "rediss://host:6379/0?ssl_ca_certs=/path/to/ca.pem",
    ),
    (
        (),
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "handshake operation timed out"),
        "it does not speak TLS on that port ({text}): begin the URL with redis:// in place of rediss://, or name "
        "its TLS port",
    ),
    (
        (redis.exceptions.InvalidResponse,),
        ("Connection closed by server", "Connection reset by peer", "Broken pipe"),
        # What a plain client sees of a TLS port, depending on what the other end sends before it hangs up.
        "it hung up, or answered what no Redis does ({text}): check the port and that the server runs; "
        "if that port speaks TLS, begin the URL with rediss:// in place of redis://",
    ),
    (
        (redis.TimeoutError,),
        (),
        # A plain server waits for the rest of a TLS handshake, and says nothing.
        "it does not answer ({text}): check the address and that the server is not overloaded; if the URL begins "
        "with rediss://, check that the port speaks TLS",
    ),
    (
        (redis.ConnectionError,),
        (),
        "it cannot be reached ({text}): check the URL and that the server runs. To start one on this machine: "
        "`genqueue broker`, or `genqueue up` with a worker and a prompt to type into",
    ),
)
