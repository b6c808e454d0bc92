"""API keys: who may use the gateway, and what is whose. The file holds their hashes, and never a key.

    keys:
      - name: alice          # the owner of what is made with the key: it may change, and alice keeps what is hers
        sha256: 9f86d0…      # of the key: printf %s "$KEY" | sha256sum
        priority: normal     # the highest that it may ask for; without it, high
        requests_per_minute: 60        # these three: without them, any number
        tokens_per_minute: 100000
        requests_at_once: 20

A key is to be long and random (`openssl rand -hex 24`): then its hash needs no salt, and says nothing of it.
"""

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator

from ..contract import InvalidRequest, Priority
from ..contract.requests import faults_of
from ..ledger.limits import Limits

OPEN = ""
"""Owner of all that is made where there are no keys: no key has that name."""


Most = Annotated[StrictInt, Field(ge=0, le=10**12)]


class ApiKey(BaseModel):
    """One key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    sha256: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
    priority: Priority = "high"
    requests_per_minute: Most = 0
    tokens_per_minute: Most = 0
    requests_at_once: Most = 0

    @property
    def limits(self) -> Limits:
        """What its owner may ask for."""
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.requests_at_once)

    def matches(self, digest: str) -> bool:
        """Whether that is its hash, in a time that does not tell how much of it fits."""
        return hmac.compare_digest(self.sha256, digest)


class ApiKeys(BaseModel):
    """All of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: Annotated[tuple[ApiKey, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _hashes_differ(self) -> Self:
        hashes = [key.sha256 for key in self.keys]
        if len(set(hashes)) != len(hashes):
            raise ValueError("two keys have the same hash: whose is what they make?")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises InvalidRequest, which names the file and what is wrong in it, and quotes nothing of it."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise InvalidRequest(f"{path} does not hold API keys: {faults_of(error)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{path} cannot be read: {error}") from None
        except (yaml.YAMLError, ValueError, RecursionError):  # as for a date that there is not
            raise InvalidRequest(f"{path} is no YAML: see producer/gateway/README.md for its form") from None

    def find(self, token: str) -> ApiKey | None:
        """The key that it is. All are looked at, so that the time does not tell which."""
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        found = [key for key in self.keys if key.matches(digest)]
        return found[0] if found else None
