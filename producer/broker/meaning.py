"""What an error of Redis means to whoever runs a service on it. Pure; knows redis-py, and nothing of jobs.

    outage   it passes: the server is away, starts, is full, is busy, or another command came in between
    unfit    a server that cannot serve us as it is: too old, read-only, a cluster, a wrong password, a permission
             that is missing. Another connection may lead to another server, and somebody may mend it
    broken   the command's own keys or values are at fault: it will fail whenever it is sent

redis-py has classes for some of these. Its other errors, and all that come out of a script on an older server, are
plain ResponseErrors whose code stands somewhere within the text, so that words count as well.
"""

import re
from typing import Literal

import redis
from redis import exceptions

Meaning = Literal["outage", "unfit", "broken"]


def meaning(error: redis.RedisError) -> Meaning:
    """What the error means: `outage`, `unfit` or `broken`."""
    words = said(error)
    if _BROKEN_WORDS.search(words):
        return "broken"
    if isinstance(error, _UNFIT_CLASSES) or _UNFIT_WORDS.search(words):
        return "unfit"
    if isinstance(error, _OUTAGE_CLASSES) or _OUTAGE_WORDS.search(words):
        return "outage"
    return "broken"


def is_read_only(error: redis.RedisError) -> bool:
    """Whether the server is a replica. After a fail-over the same URL soon leads to its primary."""
    return isinstance(error, exceptions.ReadOnlyError) or bool(_READ_ONLY_WORDS.search(said(error)))


def is_unknown_command(error: redis.RedisError) -> bool:
    """Whether the server lacks a command, or a form of one: it is too old, or its administrator took it away."""
    return bool(_UNKNOWN_WORDS.search(said(error)))


def is_wrong_type(error: redis.RedisError) -> bool:
    """Whether a key holds something of another kind than ours: unlike an outage, that does not pass."""
    return "WRONGTYPE" in str(error)  # redis-py has no class for it; out of a script it stands within the text


def is_forbidden_key(error: redis.RedisError) -> bool:
    """Whether the user may not touch a key that was named. Where the keys are a job's, the job is at fault."""
    return bool(_FORBIDDEN_KEY_WORDS.search(said(error)))


def text_of(error: redis.RedisError) -> str:
    """What the error says: a pipeline's own holds the command before it, with whatever its arguments hold."""
    return str(error).rpartition("of pipeline caused error: ")[2]


def said(error: redis.RedisError) -> str:
    """All of its words that tell what it means."""
    return f"{text_of(error)} {error.__context__}"  # redis-py keeps the words of TLS to the error's context


def _words(*patterns: str) -> re.Pattern[str]:
    """A code stands alone, in capitals: BUSY is not in BUSYGROUP. A phrase is found in any case."""
    codes = [rf"\b{pattern}\b" for pattern in patterns if pattern.isupper()]
    phrases = [f"(?i:{pattern})" for pattern in patterns if not pattern.isupper()]
    return re.compile("|".join(codes + phrases))


_READ_ONLY_WORDS = _words("READONLY", "read only replica", "read only slave")
# Our commands are always the same: one whose form is refused met a server that is too old for it.
_UNKNOWN_WORDS = _words(
    "unknown (redis |)command", "unknown subcommand", "wrong number of arguments", "syntax error",
    "unsupported option", "not allowed from script", "non deterministic commands",
)  # fmt: skip
_FORBIDDEN_KEY_WORDS = _words("(can't|cannot|no permissions to) access (a|(at least |)one of the) key")

_BROKEN_WORDS = _words("WRONGTYPE")
_UNFIT_CLASSES = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.ExternalAuthProviderError,
    exceptions.NoPermissionError,
    exceptions.ReadOnlyError,
    exceptions.InvalidResponse,
    exceptions.AskError,
    exceptions.ClusterCrossSlotError,
    exceptions.AuthenticationWrongNumberOfArgsError,
)  # fmt: skip
_UNFIT_WORDS = re.compile(
    "|".join(
        words.pattern
        for words in (
            _READ_ONLY_WORDS,
            _UNKNOWN_WORDS,
            _words("NOPERM", "NOAUTH", "WRONGPASS", "NOPROTO", "DENIED", "MOVED", "ASK", "CROSSSLOT"),
            _words("has no permissions", "no permissions to", "ACL failure", "authentication required"),
            _words("user executing the script can't"),  # Redis 7.0
            _words("invalid password", "invalid username-password", "client sent AUTH", "without any password"),
            _words("DB index", "non local key", "cluster mode", "cluster support disabled"),
            _words("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"),
        )
    )
)
_OUTAGE_CLASSES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.WatchError,  # somebody else wrote in between
    exceptions.NoScriptError,  # the server was restarted: the script is sent again
)
_OUTAGE_WORDS = _words(
    "LOADING", "BUSY", "UNKILLABLE", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "OOM",
    "UNBLOCKED", "INPROG", "NOMASTERLINK", "NOSCRIPT", "IOERR",
    "max number of clients", "max clients", "script killed by user", "command not allowed when used memory",
    "upstream (failure|connect|host)", "no upstream host", "shutting down", "server closed the connection",
)  # fmt: skip
