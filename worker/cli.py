"""`python -m worker …`: run, generate, check. The only file that sees every part of the worker.

The device is decided here, once, and handed down. Exit codes: 0 done; 1 failed; 2 bad input; 3 no broker;
130 interrupted. Answers go to stdout, everything else to stderr.
"""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import redis

from producer.contract import BrokerUnavailable, GenqueueError, InvalidRequest
from producer.contract.keys import queue
from producer.redis_url import check as check_url, client as client_of

from .config_loader import locate_model
from .errors import ConfigError, broker_unavailable
from .settings import WorkerSettings, load_settings

DEFAULT_PROMPT = "你好，介绍一下你自己"

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NO_BROKER, EXIT_INTERRUPTED = 1, 2, 3, 130

logger = logging.getLogger(__name__)

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """A queue for text generation on your own GPU: the worker's side."""


@cli.command()
@click.option("--model-name", help="A name from the model paths file.")
@click.option("--device", help="As torch names it: cuda:0, cpu.  [default: cuda:0]")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), help="[default: auto]")
@click.option("--threads", type=int, help="CPU threads for torch.")
@click.option("--redis-url", help="[default: GENQUEUE_REDIS_URL or redis://127.0.0.1:6379/0]")
@click.option("--prefix", help="Of genqueue's own keys.  [default: gen]")
@click.option("--model-paths", type=FILE, help="[default: configs/model_paths.yaml]")
@click.option("--config", "config_file", type=FILE, help="Settings.  [default: configs/worker.yaml]")
@click.option("--name", help="Stem of the worker's name.")
@click.option("--metrics-port", type=int, help="Serve Prometheus metrics there.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]")
def run(config_file: Path | None, **options: Any) -> None:
    """Serve the jobs of one model, one prompt at a time, until SIGTERM or Ctrl-C."""
    settings = load_settings(config_file, **options)
    _configure_logging(settings.log_level)
    model_path = locate_model(settings.model_name, settings.model_paths)
    asyncio.run(_serve(settings, model_path))


async def _serve(settings: WorkerSettings, model_path: Path) -> None:
    from .engine_process import EngineProcess
    from .engine_protocol import EngineConfig
    from .service import Service

    engine = EngineProcess(
        EngineConfig(
            model_path=model_path,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            options=settings.engine,
        ),
        start_s=settings.engine_start_s,
        stop_s=settings.engine_stop_s,
    )
    await Service(settings, engine).run()


@cli.command()
@click.option("--model-name", required=True, help="A name from the model paths file.")
@click.option("--prompt", default=DEFAULT_PROMPT)
@click.option("--max-new-tokens", type=int, default=256)
@click.option("--device", default="cuda:0", help="As torch names it.")
@click.option("--model-paths", type=FILE, help="[default: configs/model_paths.yaml]")
def generate(model_name: str, prompt: str, max_new_tokens: int, device: str, model_paths: Path | None) -> None:
    """Answer one prompt, without Redis."""
    from . import api

    api.generate(
        model_name,
        prompt,
        max_new_tokens,
        device,
        model_paths=model_paths,
        on_text=lambda text: click.echo(text, nl=False),
    )
    click.echo()


@cli.command()
@click.option("--model-name", required=True)
@click.option(
    "--redis-url", envvar=["GENQUEUE_REDIS_URL", "REDIS_URL"], default="redis://127.0.0.1:6379/0", show_envvar=True
)
def check(model_name: str, redis_url: str) -> None:
    """Exit 0 when a live worker serves the model; else say what there is, and exit 1."""
    states = _worker_states(model_name, redis_url)
    ready = states.count("ready")
    click.echo(f"{model_name}: {ready} ready, {len(states) - ready} loading", err=True)
    if not ready:
        sys.exit(EXIT_FAILED)


def _worker_states(model_name: str, redis_url: str) -> list[str]:
    """`model_state` of each live worker of the model. A dead worker's hash has expired."""
    try:
        check_url(redis_url)
    except ValueError as error:
        raise ConfigError(f"--redis-url: {error}") from None
    try:
        with client_of(redis_url, socket_timeout=5, decode_responses=True) as client:
            keys = sorted(client.smembers(f"rq:workers:{queue(model_name)}"))
            states = [client.hget(key, "model_state") for key in keys]
    except redis.RedisError as error:
        raise broker_unavailable(error) from error
    return [str(state) for state in states if state is not None]


def _configure_logging(level: str) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", level=level.upper(), stream=sys.stderr)
    # RQ logs each step at info; what matters of it is said by us.
    logging.getLogger("rq").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def main() -> NoReturn:
    """Run the command line. An error that a person can mend is one line, and no traceback."""
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = EXIT_BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except GenqueueError as error:
        click.echo(f"error: {error}", err=True)
        code = _exit_code(error)
    sys.exit(code if isinstance(code, int) else 0)


def _exit_code(error: GenqueueError) -> int:
    if isinstance(error, BrokerUnavailable):
        return EXIT_NO_BROKER
    return EXIT_BAD_INPUT if isinstance(error, ConfigError | InvalidRequest) else EXIT_FAILED
