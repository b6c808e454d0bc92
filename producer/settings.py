"""How a producer reaches Redis and what it asks for when a caller does not say.

Each option is defined here once; the environment sets it as `GENQUEUE_<NAME>`, a keyword argument overrides it.
"""

from typing import Annotated, Self

from pydantic import AfterValidator, AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from . import redis_url
from .contract import InvalidRequest
from .contract.keys import DEFAULT_PREFIX, Keys
from .contract.requests import faults_of

Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86_400, allow_inf_nan=False)]
WholeSeconds = Annotated[int, Field(gt=0, le=10 * 365 * 86_400)]
"""Of what RQ rounds, or what becomes a TTL in Redis, where 0 deletes the key."""
RedisUrl = Annotated[
    str,
    AfterValidator(redis_url.check),
    Field(validation_alias=AliasChoices("GENQUEUE_REDIS_URL", "REDIS_URL"), repr=False),  # in this order
]
"""Of producers and workers. It may hold a password."""
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
Prefix = Annotated[str, AfterValidator(lambda prefix: Keys(prefix).prefix)]
"""First part of every key of the contract."""


class ProducerSettings(BaseSettings):
    """Settings of a Producer. Frozen; unknown names are refused."""

    # hide_input_in_errors: the URL holds a password.
    model_config = SettingsConfigDict(
        env_prefix="GENQUEUE_",
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        loc_by_alias=False,  # else a wrong REDIS_URL is blamed on GENQUEUE_REDIS_URL
        hide_input_in_errors=True,
    )

    redis_url: RedisUrl = DEFAULT_REDIS_URL
    prefix: Prefix = DEFAULT_PREFIX
    timeout_s: WholeSeconds = 600
    """How long a worker may take for a job."""
    queue_ttl_s: Seconds = 86_400
    """How long a job may wait for a worker before it ends as expired."""
    result_ttl_s: WholeSeconds = 3_600
    """How long events and result are kept after the end."""
    wait_s: Seconds = 60
    """Bound of a wait: for the next event of a stream, or for a result."""
    connect_timeout_s: Seconds = 5
    socket_timeout_s: Seconds = 10
    """Bound of Redis's answer to one command."""

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """From the environment and the overrides that are not None.  Raises InvalidRequest naming each fault."""
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            raise InvalidRequest(f"settings are not valid: {faults_of(error)}") from None
