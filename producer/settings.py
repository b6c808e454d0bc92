"""How a producer reaches Redis and what it asks for when a caller does not say.

Each option is defined here once; the environment sets it as `GENQUEUE_<NAME>`, a keyword argument overrides it.
"""

from typing import Annotated, Any, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .broker.options import DEFAULT_REDIS_URL, AnySeconds, Prefix, RedisUrl, Seconds, WholeSeconds
from .contract import InvalidRequest
from .contract.keys import DEFAULT_PREFIX
from .contract.refusals import Names
from .contract.requests import faults_of

TINY = "tiny"
"""The model that is trained on its first use, so that there is one to begin with."""


class LoadedSettings(BaseSettings):
    """Settings of the environment, whose faults are said in words."""

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """From the environment and the overrides that are not None.  Raises InvalidRequest naming each fault."""
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            raise InvalidRequest(
                f"settings are not valid: {faults_of(error, Names(tuple(cls.model_fields)))}"
            ) from None


class ProducerSettings(LoadedSettings):
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
    group_max_queued: Annotated[int, Field(ge=0)] | None = None
    """Cap on the jobs of one group that wait for a model, where a submission does not say; None: no cap."""
    wait_s: AnySeconds = 60
    """Longest silence of a job that runs, or of a queue that no worker serves, before a wait for it is given up;
    inf: any. A wait with a bound of its own, as `result(timeout_s=5)`, goes by that alone."""
    connect_timeout_s: Seconds = 5
    socket_timeout_s: Seconds = 10
    """Bound of Redis's answer to one command."""

    @property
    def reach(self) -> dict[str, Any]:
        """The arguments of `connect`: how Redis is reached."""
        return self.model_dump(include={"redis_url", "connect_timeout_s", "socket_timeout_s"})
