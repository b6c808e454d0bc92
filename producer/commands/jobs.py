"""`cancel`, `delete` and `status`: what can be done about jobs that were submitted."""

import click

from ..cancelling import Cancelled
from ..client import Producer
from ..contract import InvalidRequest, NoSuchJob, WaitTimeout
from ..printable import printable
from .options import connection_options, json_option
from .output import EXIT_BAD_INPUT, EXIT_JOB_FAILED, EXIT_NOT_NOW, can_ask, say, show


@click.command()
@click.argument("job_ids", metavar="[JOB]...", nargs=-1)
@click.option("--queued", is_flag=True, help="All that wait in a queue.")
@click.option("--all", "everything", is_flag=True, help="All that wait, and all that run.")
@click.option("--model-name", help="Of --queued and --all: that model alone. [default: all of the prefix]")
@click.option("--yes", is_flag=True, help="Of --all: do not ask.")
@connection_options
def cancel(
    *,
    job_ids: tuple[str, ...],
    queued: bool,
    everything: bool,
    model_name: str | None,
    yes: bool,
    redis_url: str | None,
    prefix: str | None,
) -> int:
    """Cancel JOB, or many.

    Prints cancelled, requested (its worker will end it) or ended (it had ended before); of several jobs a line for
    each, and of --queued and --all how many.
    """
    if bool(job_ids) + queued + everything != 1:
        raise click.UsageError("Give the ids of jobs, or --queued, or --all.")
    if job_ids and model_name is not None:
        raise click.UsageError("--model-name goes with --queued or --all: an id says which job it is.")
    with Producer(redis_url, prefix=prefix) as producer:
        if len(job_ids) == 1:
            show(producer.cancel(job_ids[0]) + "\n")
            return 0
        if job_ids:
            return _cancel_several(producer, job_ids)
        if everything and not (yes or _confirms(producer, model_name)):
            return EXIT_JOB_FAILED
        show(_in_words(producer.cancel_all(model_name, queued_only=queued)) + "\n")
    return 0


def _cancel_several(producer: Producer, job_ids: tuple[str, ...]) -> int:
    outcomes = producer.cancel_many(job_ids)
    for job_id, outcome in outcomes.items():
        show(f"{job_id} {outcome}\n")
    say(_in_words({outcome: list(outcomes.values()).count(outcome) for outcome in outcomes.values()}))
    return EXIT_BAD_INPUT if "no_such_job" in outcomes.values() else 0


def _confirms(producer: Producer, model_name: str | None) -> bool:
    """Where nobody is there to be asked, who says --all means it."""
    if not can_ask():
        return True
    seen = producer.overview(model_name)
    waiting = sum(each.queued for each in seen.models)
    running = sum(len(each.running) for each in seen.models)
    of = f" of {model_name}" if model_name else ""
    return click.confirm(f"Cancel {waiting} jobs that wait and {running} that run{of}?", err=True)


def _in_words(counts: dict[Cancelled, int]) -> str:
    words: dict[Cancelled, str] = {
        "cancelled": "cancelled",
        "requested": "requested of their workers",
        "ended": "had ended before",
        "no_such_job": "not known",
    }
    said = [f"{counts[outcome]} {text}" for outcome, text in words.items() if counts.get(outcome)]
    return ", ".join(said) or "0 cancelled"


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@connection_options
def delete(*, job_ids: tuple[str, ...], redis_url: str | None, prefix: str | None) -> int:
    """Take JOB away, with all that the server has of it.

    That is its prompt, its tokens, its result and RQ's records. One that has not ended is cancelled first. Prints
    deleted; of several jobs a line for each.
    """
    is_held = is_bad = False
    with Producer(redis_url, prefix=prefix) as producer:
        for job_id in job_ids:
            try:
                producer.delete(job_id)
            except (NoSuchJob, InvalidRequest) as error:
                say(str(error))
                is_bad = True
            except WaitTimeout as error:  # with a worker still: no reason to leave the others
                say(str(error))
                is_held = True
            else:
                show("deleted\n" if len(job_ids) == 1 else f"{job_id} deleted\n")
    return EXIT_BAD_INPUT if is_bad else EXIT_NOT_NOW if is_held else 0


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
