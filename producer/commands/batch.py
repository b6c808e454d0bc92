"""`batch`: a file of prompts, through the queue into a file of answers."""

from typing import Any, Literal

import click

from ..settings import ProducerSettings
from .options import (
    connection_options,
    group_option,
    lifetime_options,
    model_name_option,
    sampling_options,
    with_options,
)
from .output import EXIT_INTERRUPTED, EXIT_JOB_FAILED, say, show

row_options = with_options(
    click.option(
        "--input-format",
        type=click.Choice(["jsonl", "csv", "tsv", "txt"]),
        help="txt: a text on each line. [default: csv, tsv or txt where the name ends so, else jsonl]",
    ),
    click.option(
        "--template",
        metavar="TEXT",
        help='A table\'s prompts, as "Summarise: {text}": columns in braces. [default: {prompt}]',
    ),
    click.option("--chat", is_flag=True, help="Send texts as a user's message, for the model's chat template."),
)
pace_options = with_options(
    click.option(
        "--in-flight",
        type=click.IntRange(1, 10_000),
        default=64,
        show_default=True,
        help="So many jobs are in the queue at a time.",
    ),
    click.option(
        "--order",
        type=click.Choice(["input", "as-done"]),
        default="input",
        show_default=True,
        help="Of the answers.",
    ),
    click.option("--fail-fast", is_flag=True, help="Begin no more rows once one has failed."),
    click.option(
        "--priority",
        type=click.Choice(["high", "normal", "low"]),
        default="low",
        show_default=True,
        help="Of these jobs among those of the model.",
    ),
    group_option,
)


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@model_name_option
@row_options
@pace_options
@sampling_options
@lifetime_options
@connection_options
def batch(
    *,
    source: str,
    target: str,
    model_name: str | None,
    input_format: Literal["jsonl", "csv", "tsv", "txt"] | None,
    template: str | None,
    chat: bool,
    in_flight: int,
    order: str,
    fail_fast: bool,
    redis_url: str | None,
    prefix: str | None,
    **options: Any,
) -> int:
    """Answer every row of IN with a line of OUT.

    A row is a JSON object with the fields of a request, a JSON string, a row of a table, or one of OpenAI's batch
    format, which is answered in that format. - is stdin, or stdout.

    Stopped in any way, the same command goes on where it was: rows that OUT has are left alone. With another
    model, template or sampling it is another batch. A row that cannot be answered has its line in OUT, with the
    reason.
    """
    from ..batch.runner import Options
    from ..batch.running import Batch, Plan
    from ..batch.source import STDIO, Source

    if model_name is None:
        raise click.UsageError("Missing option '--model-name': the model to ask, as in --model-name tiny.")
    queue = {name: options.pop(name) for name in ("priority", "group", "queue_ttl_s", "timeout_s", "result_ttl_s")}
    plan = Plan(
        source=Source.of(source, input_format, template),
        target=target,
        sampling={name: value for name, value in options.items() if value is not None and value != ()},
        options=Options({"model": model_name, **queue}, in_flight=in_flight, fail_fast=fail_fast),
        chat=chat,
        in_order=order == "input",
    )
    settings = ProducerSettings.load(redis_url=redis_url, prefix=prefix, wait_s=float("inf"))
    work = Batch(plan, settings, show)
    if work.run():
        say(work.tally.summary())
        return EXIT_JOB_FAILED if work.tally.failed else 0
    count = work.in_flight
    jobs = "1 job in flight goes on" if count == 1 else f"{count} jobs in flight go on"
    say(f"stopped after {work.tally.rows_of}; {jobs}")
    if target != STDIO:
        say(f"the same command goes on from {target}")
    return EXIT_INTERRUPTED
