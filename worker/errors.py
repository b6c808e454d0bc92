"""Errors of the worker's own: what stops it from starting, and what it cannot wait out.

How a job fails is in producer.contract.errors, and what an error of Redis means is in producer.broker.meaning.
"""

from producer.contract import GenqueueError


class ConfigError(GenqueueError):
    """The worker cannot start with this configuration. The message names the file, key or option to change."""

    code = "config_error"


class BookkeepingFailed(GenqueueError):
    """RQ could not note what became of a job, and trying again will not help: the job's own keys are at fault."""

    code = "bookkeeping_failed"
