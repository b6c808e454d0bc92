"""`dashboard`: RQ's dashboard for our jobs."""

import click

from ..settings import ProducerSettings
from .options import connection_options


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9181,
    show_default=True,
    help="Port to listen on. 0: any free one.",
)
@click.option(
    "--username",
    envvar="GENQUEUE_DASHBOARD_USERNAME",
    help="What a browser has to give, with the password. [env: GENQUEUE_DASHBOARD_USERNAME]",
)
@click.option(
    "--password",
    envvar="GENQUEUE_DASHBOARD_PASSWORD",
    help="What a browser has to give. Better in the environment: others see a command line. "
    "[env: GENQUEUE_DASHBOARD_PASSWORD]",
)
@connection_options
@click.option(
    "--all", "everything", is_flag=True, help="Show all that uses RQ on the server, whatever its prefix."
)
@click.option(
    "--show-prompts",
    is_flag=True,
    envvar="GENQUEUE_DASHBOARD_SHOW_PROMPTS",
    help="Show a job's prompt beside its answer. [env: GENQUEUE_DASHBOARD_SHOW_PROMPTS]",
)
def dashboard(
    *,
    host: str,
    port: int,
    username: str | None,
    password: str | None,
    redis_url: str | None,
    prefix: str | None,
    everything: bool,
    show_prompts: bool,
) -> int:
    """Serve a dashboard of the jobs, for a browser.

    It is rq-dashboard, set up for the jobs of one prefix.
    """
    from ..dashboard import serve  # Flask, which no other command needs

    settings = ProducerSettings.load(redis_url=redis_url, prefix=prefix)
    shown = None if everything else settings.prefix
    serve(
        settings.redis_url,
        host=host,
        port=port,
        username=username,
        password=password,
        prefix=shown,
        show_prompts=show_prompts,
    )
    return 0
