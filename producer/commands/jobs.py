"""`cancel` and `status`: what can be done about one job."""

import click

from ..client import Producer
from ..display import printable
from .options import connection_options, json_option
from .output import show


@click.command()
@click.argument("job_id", metavar="JOB")
@connection_options
def cancel(job_id: str, redis_url: str | None, prefix: str | None) -> int:
    """Cancel JOB. Prints cancelled, requested (its worker will end it) or ended (it had ended before)."""
    with Producer(redis_url, prefix=prefix) as producer:
        show(producer.cancel(job_id) + "\n")
    return 0


@click.command()
@click.argument("job_id", metavar="JOB")
@json_option
@connection_options
def status(job_id: str, as_json: bool, redis_url: str | None, prefix: str | None) -> int:
    """Print what is known of JOB.

    That is its place in line, the workers that serve its model, its progress.
    """
    with Producer(redis_url, prefix=prefix) as producer:
        known = producer.status(job_id)
    show((known.model_dump_json() if as_json else printable(known.describe())) + "\n")
    return 0
