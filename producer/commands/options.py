"""Options that several commands share. Their help names the environment and the default, as the settings do."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..contract import DEFAULT_MAX_NEW_TOKENS
from ..contract.keys import model_name_of_folder
from ..settings import TINY, ProducerSettings

F = TypeVar("F", bound=Callable[..., Any])


def with_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for several options."""

    def apply(command: F) -> F:
        """Add the options to the command, so that `--help` lists them in their order."""
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def setting_help(name: str, *variables: str) -> str:
    """Where an option comes from that is not given: the environment, else the settings' own default."""
    named = ", ".join(variables or [f"GENQUEUE_{name.upper()}"])
    return f"[env: {named}; default: {ProducerSettings.model_fields[name].default}]"


redis_url_option = click.option(
    "--redis-url",
    metavar="URL",
    help=f"Of the broker. {setting_help('redis_url', 'GENQUEUE_REDIS_URL', 'REDIS_URL')}",
)
prefix_option = click.option("--prefix", help=f"First part of every key. {setting_help('prefix')}")
connection_options = with_options(redis_url_option, prefix_option)
model_name_option = click.option(
    "--model-name",
    envvar="GENQUEUE_MODEL_NAME",
    help="Which model is to answer: the name that its worker has for it. [env: GENQUEUE_MODEL_NAME]",
)
group_option = click.option(
    "--group",
    metavar="NAME",
    help="For whom it is, as a user or a tenant: groups take turns. [default: none]",
)
lifetime_options = with_options(
    click.option(
        "--queue-ttl-s", type=float, help=f"How long it may wait for a worker. {setting_help('queue_ttl_s')}"
    ),
    click.option("--timeout-s", type=int, help=f"How long a worker may take. {setting_help('timeout_s')}"),
    click.option(
        "--result-ttl-s", type=int, help=f"How long events and result are kept. {setting_help('result_ttl_s')}"
    ),
)
model_options = with_options(
    click.option(
        "--model-name",
        help="A name from the model paths file; with --model-path, the name of its queue. "
        "[env: GENQUEUE_MODEL_NAME; default: the folder's name, else tiny]",
    ),
    click.option(
        "--model-path",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="A model folder, as `hf download` makes it; no model paths file is needed. "
        "[env: GENQUEUE_MODEL_PATH]",
    ),
)
wait_option = click.option(
    "--wait-s",
    type=float,
    help="Give up where a job runs and says nothing, or no worker serves it, for so long; inf: never. "
    + setting_help("wait_s"),
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
interrupt_option = click.option(
    "--on-interrupt",
    type=click.Choice(["leave", "cancel"]),
    help="What Ctrl-C does to the job. [default: ask on a terminal, elsewhere leave it running]",
)
sampling_options = with_options(
    click.option(
        "--max-new-tokens",
        type=int,
        help=f"At most so many tokens. [default: {DEFAULT_MAX_NEW_TOKENS}, or what fits]",
    ),
    click.option("--min-new-tokens", type=int, help="No end before so many tokens. [default: 0]"),
    click.option("--temperature", type=float, help="0 is greedy. [default: 0]"),
    click.option(
        "--top-p",
        type=float,
        help="Sample from the likeliest tokens that make up this probability. [default: 1]",
    ),
    click.option("--top-k", type=int, help="Sample from so many likeliest tokens. [default: 0, which is off]"),
    click.option(
        "--min-p", type=float, help="Leave out tokens less likely than this share of the likeliest. [default: 0]"
    ),
    click.option("--repetition-penalty", type=float, help="Over prompt and output. [default: 1, which is off]"),
    click.option(
        "--presence-penalty", type=float, help="Taken once from every token of the output so far. [default: 0]"
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        help="Taken for each time a token is in the output so far. [default: 0]",
    ),
    click.option("--seed", type=int, help="The same seed gives the same text. [default: drawn for each job]"),
    click.option("--stop", multiple=True, help="A string that ends the text. Repeatable."),
    click.option("--ignore-eos", is_flag=True, default=None, help="Go on past the model's end of text."),
    click.option("--logprobs", type=int, help="With each token its log-probability, and so many likeliest."),
    click.option("--skip-special-tokens/--keep-special-tokens", default=None, help="Of the text. [default: skip]"),
    click.option("--add-special-tokens/--no-special-tokens", default=None, help="To the prompt. [default: add]"),
    click.option("--cache-salt", help="Share what was read of prompts only with requests of the same salt."),
    click.option(
        "--prompt-lookup/--no-prompt-lookup",
        default=None,
        help="Draft from prompt and output: for speed. [default: as the worker is set]",
    ),
)


def chosen_model(model_name: str | None, model_path: Path | None) -> tuple[str, Path | None]:
    """Name and folder of the model, where one is given: from the options, else from the environment, else `tiny`.

    They are one choice: where an option gives one of them, the environment is not asked for the other.
    """
    if model_name is None and model_path is None:
        model_name = os.environ.get("GENQUEUE_MODEL_NAME")
        model_path = Path(found) if (found := os.environ.get("GENQUEUE_MODEL_PATH")) else None
    if model_path is None:
        return model_name or TINY, None
    folder = model_path.expanduser()
    return model_name or model_name_of_folder(folder), folder
