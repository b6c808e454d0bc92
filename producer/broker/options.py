"""Types of the options that say how to reach a server, for the settings of producers and workers alike."""

from typing import Annotated

from pydantic import AfterValidator, AliasChoices, Field

from ..contract.keys import Keys
from . import urls

Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86_400, allow_inf_nan=False)]
AnySeconds = Annotated[float, Field(gt=0)]
"""Seconds that somebody waits; inf for any."""
WholeSeconds = Annotated[int, Field(gt=0, le=10 * 365 * 86_400)]
"""Of what RQ rounds, or what becomes a TTL in Redis, where 0 deletes the key."""
RedisUrl = Annotated[
    str,
    AfterValidator(urls.check),
    Field(validation_alias=AliasChoices("GENQUEUE_REDIS_URL", "REDIS_URL"), repr=False),  # in this order
]
"""It may hold a password."""
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
Prefix = Annotated[str, AfterValidator(lambda prefix: Keys(prefix).prefix)]
"""First part of every key and queue of one deployment."""
