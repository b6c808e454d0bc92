"""`serve`: the OpenAI-compatible gateway."""

from pathlib import Path
from typing import Any

import click

from ..settings import ProducerSettings
from .options import connection_options, with_options

_ENV = "[env: GENQUEUE_SERVE_{}; default: {}]"

serve_options = with_options(
    click.option("--host", help=f"Address to listen on. {_ENV.format('HOST', '127.0.0.1')}"),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        help=f"Port to listen on; 0: any free one. {_ENV.format('PORT', 8000)}",
    ),
    click.option(
        "--api-keys",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Hashes of the keys that are let in. Needed beyond 127.0.0.1. "
        + _ENV.format("API_KEYS", "none, and localhost only"),
    ),
    click.option(
        "--grace-s",
        type=float,
        help="How long a job goes on whose client has gone, and may come back; inf: to its end. "
        + _ENV.format("GRACE_S", 10),
    ),
    click.option(
        "--store-ttl-s",
        type=int,
        help=f"How long answers are kept that are to be stored. {_ENV.format('STORE_TTL_S', 86400)}",
    ),
    click.option(
        "--max-queued",
        type=int,
        help=f"Refuse when so many jobs wait for the model. {_ENV.format('MAX_QUEUED', 'no bound')}",
    ),
    click.option(
        "--max-tokens",
        type=int,
        help=f"Of an answer, where a request does not say. {_ENV.format('MAX_TOKENS', '256, or what fits')}",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="URL",
        help="A site whose pages may use it from a browser. Repeatable; with commas in the environment. "
        + _ENV.format("CORS_ORIGINS", "none"),
    ),
    click.option(
        "--page/--no-page",
        default=None,
        help="Have a page for people at `/`: a chat, and the queue. " + _ENV.format("PAGE", "yes"),
    ),
    click.option(
        "--share-prefixes",
        is_flag=True,
        default=None,
        help="Read what two keys' prompts begin with once for both. " + _ENV.format("SHARE_PREFIXES", "no"),
    ),
)


@click.command()
@serve_options
@connection_options
def serve(*, redis_url: str | None, prefix: str | None, cors_origins: tuple[str, ...], **options: Any) -> int:
    """Serve OpenAI's API: http://127.0.0.1:8000/v1.

    Any client of OpenAI's reaches the workers through it. Streams go on where they were when a client comes back,
    to this gateway or to another one.
    """
    from ..gateway.serving import serve as serve_until_told  # starlette, which no other command needs
    from ..gateway.settings import GatewaySettings

    settings = GatewaySettings.load(**options, cors_origins=cors_origins or None)
    serve_until_told(settings, ProducerSettings.load(redis_url=redis_url, prefix=prefix))
    return 0
