"""Errors of the worker's own: what stops it from starting, and what it cannot wait out.

How a job fails is in producer.contract.errors.
"""

import redis

from producer.contract import BrokerUnavailable, GenqueueError


class ConfigError(GenqueueError):
    """The worker cannot start with this configuration. The message names the file, key or option to change."""

    code = "config_error"


class BookkeepingFailed(GenqueueError):
    """RQ could not note what became of a job, and trying again will not help: the job's own keys are at fault."""

    code = "bookkeeping_failed"


def is_wrong_type(error: redis.RedisError) -> bool:
    """Whether a key holds something of another kind than ours: unlike an outage, that does not pass."""
    return "WRONGTYPE" in str(error)  # redis-py has no class for it; out of a script it stands within the text


def broker_unavailable(error: Exception) -> BrokerUnavailable:
    """Why the worker cannot use Redis, and what to do about it. Names no URL, which may hold a password."""
    advice = next(advice for kinds, advice in _ADVICE if isinstance(error, kinds))
    return BrokerUnavailable(f"Redis cannot be used ({error}): {advice}")


# From the particular to the general: redis-py's AuthenticationError is a ConnectionError.
_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (redis.AuthenticationError, "put the right password into the URL, as in redis://:PASSWORD@host:6379/0"),
    (redis.exceptions.NoPermissionError, "extend the ACL of the user"),
    (redis.ReadOnlyError, "this is a read-only replica; use the URL of its primary"),
    (redis.exceptions.OutOfMemoryError, "raise its maxmemory, or wait for keys to expire"),
    (Exception, "check the URL, and that the server runs"),
)
