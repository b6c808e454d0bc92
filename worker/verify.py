"""`verify`: reads a job that has ended from Redis, loads its model, and has it run again.

What comes of it is in `verifying`; here is what is read, and how it is said.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click
import redis

from producer.broker.advice import broker_unavailable
from producer.broker.connections import address, connect
from producer.contract import BrokerUnavailable, EngineFacts, GenqueueError, InvalidRequest, Keys, parse_entry
from producer.contract.keys import check_job_id
from producer.ledger.past import Past, ask_past, read_past

from .errors import ConfigError
from .extras import worker_extra
from .models.config_loader import TINY, find_model
from .options import (
    config_option,
    device_option,
    dtype_option,
    model_name_option,
    model_path_option,
    model_paths_option,
    prefix_option,
    redis_url_option,
)
from .progress import ShownProgress
from .settings import WorkerSettings, load_settings
from .verifying import LIKELIEST, Ran, Token, Verdict, attempts_of, check_can_be_compared, compare

TIMEOUT_S = 5.0
EXIT_THEY_PART = 1


@click.command()
@click.argument("job_id", metavar="JOB")
@model_name_option
@model_path_option
@device_option
@dtype_option
@redis_url_option
@prefix_option
@model_paths_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def verify(job_id: str, config_file: Path | None, as_json: bool, **options: Any) -> None:
    """Run JOB again here, and compare token by token.

    JOB has ended; one that was cut is compared over its length. It says at which token the runs part, and what
    differs in hardware, dtype and versions. Exit code 0: they are equal; 1: they part; 2: they cannot be compared.
    Where no model is named, it is JOB's own.
    """
    try:
        verdict = run_again(job_id, config_file, **options)
    except BrokerUnavailable:
        raise
    except GenqueueError as error:
        raise ConfigError(str(error)) from error  # 1 says that they part
    click.echo(shown(verdict, as_json=as_json), nl=False)
    if not verdict.is_equal:
        sys.exit(EXIT_THEY_PART)


class _Job(NamedTuple):
    past: Past
    attempts: list[Ran]


def run_again(job_id: str, config_file: Path | None, **options: Any) -> Verdict:
    """options: those of the command line. Where they name no model, it is the job's own.

    Raises ConfigError, BrokerUnavailable; NoSuchJob and InvalidRequest for a job that cannot be compared.
    """
    is_named = bool(options.get("model_name") or options.get("model_path"))
    job = _read(check_job_id(job_id), _settings(config_file, options, None if is_named else TINY))
    check_can_be_compared(job.past)  # before a model is loaded
    settings = _settings(config_file, options, None if is_named else job.past.model)
    if not is_named and settings.model_name != job.past.model:
        raise InvalidRequest(
            f"job {job_id} is of {job.past.model}, and the settings here name {settings.model_name}: say which is "
            "to run it, with --model-name or --model-path"
        )
    return _verify(job, settings)


def _settings(config_file: Path | None, options: dict[str, Any], model: str | None) -> WorkerSettings:
    """model: for where no setting names one."""
    try:
        return load_settings(config_file, **options)
    except ConfigError:
        if model is None:
            raise
    return load_settings(config_file, **{**options, "model_name": model})


def _read(job_id: str, settings: WorkerSettings) -> _Job:
    keys = Keys(settings.prefix)
    with connect(settings.redis_url, connect_timeout_s=TIMEOUT_S, socket_timeout_s=TIMEOUT_S) as client:
        try:
            past = read_past(keys, job_id, ask_past(keys, job_id)(client))
            entries: Any = client.xrange(keys.events(job_id))
        except redis.RedisError as error:
            raise broker_unavailable(error, address(client)) from error
    try:
        return _Job(past, attempts_of(parse_entry(*entry) for entry in entries))
    except (KeyError, ValueError):
        return _Job(past, [])  # the result says what was generated; who did it is only told


def _verify(job: _Job, settings: WorkerSettings) -> Verdict:
    folder = find_model(settings.model_name, settings.model_path, settings.model_paths)
    with ShownProgress() as progress:
        progress("importing torch", 0, 0)  # which takes seconds
        with worker_extra():
            from .engine_process.kernel_cache import set_up_kernel_cache  # noqa: PLC0415
            from .engine_process.protocol import EngineConfig  # noqa: PLC0415
            from .engine_process.serving import describe, load_engine  # noqa: PLC0415

        set_up_kernel_cache()
        config = EngineConfig(
            model_path=folder,
            model_name=settings.model_name,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            options=settings.engine,
        )
        engine = load_engine(config, progress)
        engine.warm_up(progress)  # as a worker does: a step that is compiled may round otherwise
    here: EngineFacts = describe(engine, 0, 0).facts()
    return compare(engine, job.past, settings.model_name, here, job.attempts)


def shown(verdict: Verdict, *, as_json: bool) -> str:
    """For stdout."""
    if as_json:
        return json.dumps({**asdict(verdict), "is_equal": verdict.is_equal}) + "\n"
    lines = [_first_line(verdict)]
    if verdict.parting and verdict.parting.here:
        lines.append(
            f"log-probabilities here: {_logprob(verdict.parting.there)}, {_logprob(verdict.parting.here)}"
        )
    lines += [f"differs: {what}" for what in verdict.differs]
    return "".join(f"{line}\n" for line in lines)


def _first_line(verdict: Verdict) -> str:
    parting = verdict.parting
    if parting is None:
        given = f", after {verdict.given} that it was given" if verdict.given else ""
        return f"equal: all {verdict.tokens - verdict.given} tokens{given}"
    there, here = _named(parting.there), "the end" if parting.here is None else _named(parting.here)
    return f"they part at index {parting.index} of {verdict.tokens} tokens: {there} there, {here} here"


def _named(token: Token) -> str:
    return f"{token.text!r} ({token.id})"


def _logprob(token: Token) -> str:
    known = f"not among the {LIKELIEST} likeliest" if token.logprob is None else f"{token.logprob:.4f}"
    return f"{token.text!r} {known}"
