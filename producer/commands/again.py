"""`continue` and `verify`: what a job that has ended is good for."""

import os
import subprocess
from pathlib import Path
from typing import Any

import click

from ..broker.child import module_command
from ..local import check_installed
from .follow import producer_for
from .options import connection_options, json_option
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


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--model-name", help="A name from the model paths file. [default: JOB's own]")
@click.option(
    "--model-path",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A model folder, as `hf download` makes it. [env: GENQUEUE_MODEL_PATH]",
)
@click.option("--device", help="As torch names it. [env: GENQUEUE_DEVICE; default: the worker's own, cuda:0]")
@click.option("--dtype", help="Of the weights. [env: GENQUEUE_DTYPE; default: the worker's own]")
@json_option
@connection_options
def verify(*, job_id: str, as_json: bool, redis_url: str | None, **options: Any) -> int:
    """Run JOB again on this machine, and compare token by token.

    JOB has ended; one that was cut is compared over its length. It says at which token the runs part, and what
    differs in hardware, dtype and versions. Exit code 0: they are equal; 1: they part; 2: they cannot be compared.
    It is `genqueue-worker verify`, and wants the worker to be installed.
    """
    check_installed()
    given = [part for name, value in options.items() if value for part in (_option(name), str(value))]
    command = module_command("worker", "verify", *given, *(["--json"] if as_json else []), "--", job_id)
    # In the environment: others see a command line, and the URL may hold a password.
    environment = {**os.environ, "GENQUEUE_REDIS_URL": redis_url} if redis_url else None
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own module


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
