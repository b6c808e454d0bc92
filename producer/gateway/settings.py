"""What a gateway is set to. Each option is defined here; the environment sets it as `GENQUEUE_SERVE_<NAME>`."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from ..broker.options import AnySeconds, Seconds, WholeSeconds
from ..settings import LoadedSettings

Count = Annotated[int, Field(ge=1)]


def _listed(given: Any) -> Any:
    """Of a text with commas, or in JSON, what stands between them."""
    if not isinstance(given, str):
        return given
    return re.findall(r'[^\s,"\[\]]+', given)


def _as_browsers_say_it(given: str) -> str:
    """An origin. A person copies it out of an address bar, with a slash; one that never fits would be silent."""
    origin = given.lower().removesuffix("/")
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@]+", origin):
        raise ValueError(f"{given:.80} is no origin: give scheme and host, as https://chat.example.org")
    return origin


Origin = Annotated[str, AfterValidator(_as_browsers_say_it)]


class GatewaySettings(LoadedSettings):
    """Settings of a gateway. Frozen; unknown names are refused."""

    model_config = SettingsConfigDict(env_prefix="GENQUEUE_SERVE_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on. 0: any free one."""
    api_keys: Path | None = None
    """File of the API keys. None: everybody who reaches the gateway may use it."""
    grace_s: AnySeconds = 10
    """How long a job goes on whose client has gone, and may come back; inf: to its end."""
    heartbeat_s: Seconds = 15
    """Between two comments on a stream on which nothing else comes."""
    store_ttl_s: WholeSeconds = 86_400
    """How long answers are kept that are to be stored, and the conversations that they make."""
    max_queued: Count | None = None
    """Jobs that may wait for a model before another is refused. None: any number."""
    max_choices: Count = 128
    """Answers to one request: prompts times n."""
    max_tokens: Count | None = None
    """Of an answer, where the request says nothing of it. None: 256, or less where the context holds less."""
    max_body_bytes: Count = 16 * 2**20
    """Of a request."""
    head_s: Seconds = 20
    """How long a client may take to send the head of a request."""
    body_s: Seconds = 30
    """How long it may take for the rest."""
    max_file_bytes: Count = 200 * 2**20
    """Of an uploaded file."""
    max_files_bytes: Count = 2**30
    """Of all files of a key: those that batches write count, and are never refused."""
    max_files: Count = 10_000
    """Files of a key."""
    files_ttl_s: WholeSeconds = 7 * 86_400
    """How long files are kept, and batches after their end."""
    max_batches: Count = 1_000
    """Batches of a key that are kept."""
    max_batch_rows: Count = 50_000
    """Of a batch."""
    batch_in_flight: Count = 64
    """Rows of a batch that are with the workers at once."""
    batches_at_once: Annotated[int, Field(ge=0)] = 4
    """That this gateway runs; 0: it leaves them to others."""
    page: bool = True
    """Whether there is a page for people at `/`."""
    share_prefixes: bool = False
    """Whether keys share what was read of a prompt's beginning, whose time and `cached_tokens` then tell of it."""
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Origins whose pages may use the gateway from a browser; in the environment with commas between them."""
