"""`doctor`: what is wrong here, and what to do about it. The worker's half is looked at by the worker."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import redis
from pydantic import ValidationError

from ..broker.advice import broker_unavailable
from ..broker.checkup import check_server
from ..broker.child import module_command
from ..broker.connections import address, connect
from ..broker.findings import FINDINGS, Finding, is_wrong, judge_rights, shown
from ..contract import GenqueueError, InvalidRequest, Keys
from ..ledger.rights import producer_needs, refused
from ..local import check_installed
from ..settings import ProducerSettings
from .options import chosen_model, connection_options, json_option, model_options
from .output import show

EXIT_WRONG = 1


@click.command()
@model_options
@click.option(
    "--device",
    help="Where the model is to run, as torch names it. [env: GENQUEUE_DEVICE; default: the worker's own, cuda:0]",
)
@json_option
@connection_options
def doctor(
    *,
    model_name: str | None,
    model_path: Path | None,
    device: str | None,
    as_json: bool,
    redis_url: str | None,
    prefix: str | None,
) -> int:
    """Say what is wrong here, and what to do about it.

    Looks at Redis; and at Python, torch, GPU and model where the worker is installed. One line for each thing: ok,
    a warning, or wrong, with what to do. Exit code 1 if anything is wrong. Redis is looked at as a producer
    uses it; `genqueue-worker doctor` looks at it as a worker does.
    """
    name, _ = chosen_model(model_name, model_path)
    of_redis = list(_check_redis(redis_url, prefix, name))
    if not as_json:
        show(shown(of_redis, as_json=False))  # the worker's come when torch is imported
    options = {"--model-name": model_name, "--model-path": model_path, "--device": device}
    given = [part for option, value in options.items() if value is not None for part in (option, str(value))]
    of_worker = _ask_worker(given)
    show(shown([*of_redis, *of_worker] if as_json else of_worker, as_json=as_json))
    return EXIT_WRONG if is_wrong([*of_redis, *of_worker]) else 0


def _check_redis(redis_url: str | None, prefix: str | None, model: str) -> Iterator[Finding]:
    try:
        settings = ProducerSettings.load(redis_url=redis_url, prefix=prefix)
        needs = producer_needs(Keys(settings.prefix), model)
    except InvalidRequest as error:
        yield Finding(name="settings", state="wrong", message=str(error))
        return
    with connect(**settings.reach) as client:
        try:
            yield from check_server(client)
            yield judge_rights("producer", refused(client, needs))
        except redis.RedisError as error:
            message = str(broker_unavailable(error, address(client)))
            yield Finding(name="Redis", state="wrong", message=message)


def _ask_worker(options: list[str]) -> list[Finding]:
    """What the worker finds, which knows torch. It is a child, of which nothing is imported here."""
    try:
        check_installed()
    except GenqueueError as error:
        return [_of_worker("wrong" if options else "ok", f"{error}; a script that submits jobs needs none")]
    command = module_command("worker", "doctor", "--json", "--no-redis", *options)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603 - our own module
    try:
        return FINDINGS.validate_json(done.stdout)
    except ValidationError:
        return [_of_worker("wrong", f"it ended with exit code {done.returncode}; its messages stand above")]


def _of_worker(state: str, message: str) -> Finding:
    return Finding.model_validate({"name": "worker", "state": state, "message": message})
