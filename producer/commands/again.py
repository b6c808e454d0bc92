"""`continue` and `verify`: what a job that has ended is good for."""

from typing import Any

import click

from .follow import producer_for
from .options import connection_options
from .output import say
from .submit import follow_options, queue_options, see_through


@click.command("continue")
@click.argument("job_id_before", metavar="JOB")
@click.option(
    "--max-new-tokens",
    type=int,
    help="So many tokens may follow. [default: what JOB had left; 256, or what fits, where it had used it up]",
)
@follow_options
@queue_options
@connection_options
def continue_(
    *,
    job_id_before: str,
    max_new_tokens: int | None,
    mode: str | None,
    as_json: bool,
    wait_s: float | None,
    on_interrupt: str | None,
    job_id: str | None,
    redis_url: str | None,
    prefix: str | None,
    **options: Any,
) -> int:
    """Go on with JOB, and print the new job's id.

    JOB was cut by its --max-new-tokens, cancelled, or ran out of time. The new job begins after its last token,
    and generates nothing again. Its text is the whole one, from the beginning of JOB on, as of one undisturbed
    run.
    """
    with producer_for(redis_url, prefix, wait_s) as producer:
        job = producer.continue_job(job_id_before, max_new_tokens, new_job_id=job_id, **options)
        if not job.created:
            say(f"job {job.job_id} exists already: nothing was enqueued")
        return see_through(producer, job, mode, as_json=as_json, on_interrupt=on_interrupt)
