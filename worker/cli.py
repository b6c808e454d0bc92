"""`python -m worker …`: run, generate, check, doctor, verify. The only file that sees every part of the worker.

The device is decided here, once, and handed down. Exit codes: 0 done; 1 failed, not ready, or something is wrong;
2 bad input; 3 no broker; 130 interrupted. Answers go to stdout, everything else to stderr.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

from producer.broker.findings import is_wrong, shown
from producer.contract import DEFAULT_MAX_NEW_TOKENS, BrokerUnavailable, GenqueueError, InvalidRequest, Keys
from producer.contract.version import VERSION
from producer.printable import open_what_is_closed

from . import logs
from .engine_options import Dtype, Weights
from .errors import ConfigError
from .models.config_loader import find_model
from .models.tiny_corpus import DEFAULT_PROMPT
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
from .settings import WorkerSettings, load_settings
from .verify import verify

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NO_BROKER, EXIT_INTERRUPTED = 1, 2, 3, 130

OF_THE_PRODUCER = (
    *("up", "broker", "submit", "stream", "result", "batch", "continue", "cancel", "status"),
    *("ps", "models", "delete", "dashboard", "serve"),
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, as a person meets them, and not by name."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """click's; one of the other program is told so."""
        if cmd_name in OF_THE_PRODUCER:
            raise click.UsageError(f"{cmd_name} is a command of the producer's: genqueue {cmd_name}", ctx)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(VERSION, prog_name="genqueue", message="%(prog)s %(version)s")
def cli() -> None:
    """A queue for text generation on your own GPU: the worker's side."""


@cli.command()
@model_name_option
@model_path_option
@device_option
@dtype_option
@click.option(
    "--threads",
    type=int,
    help="CPU threads for torch.  [env: GENQUEUE_THREADS]  [default: one for a small model, else torch's choice]",
)
@redis_url_option
@prefix_option
@model_paths_option
@config_option
@click.option("--name", help="Stem of the worker's name.  [env: GENQUEUE_NAME]  [default: genqueue]")
@click.option(
    "--metrics-port",
    type=int,
    help="Serve Prometheus metrics there; 0: any free port.  [env: GENQUEUE_METRICS_PORT]  [default: none]",
)
@click.option(
    "--log-level", type=click.Choice(get_args(logs.LogLevel)), help="[env: GENQUEUE_LOG_LEVEL]  [default: info]"
)
@click.option(
    "--log-format",
    type=click.Choice(get_args(logs.LogFormat)),
    help="json: one object a line.  [env: GENQUEUE_LOG_FORMAT]  [default: text]",
)
def run(config_file: Path | None, **options: Any) -> None:
    """Serve the jobs of one model, one at a time.

    It runs until SIGTERM or Ctrl-C. More settings than these have no option: configs/worker.yaml or GENQUEUE_… set
    them, as configs/README.md lists them.
    """
    settings = load_settings(config_file, **options)
    logs.configure(settings.log_level, settings.log_format)
    model_path = find_model(settings.model_name, settings.model_path, settings.model_paths)
    asyncio.run(_serve(settings, model_path))


async def _serve(settings: WorkerSettings, model_path: Path) -> None:
    from .engine_process.process import EngineProcess
    from .engine_process.protocol import EngineConfig
    from .leaving import Leaving, cancel
    from .starting import start
    from .threads import DaemonThreads

    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    leaving = Leaving(grace_s=settings.shutdown_grace_s, engine_stop_s=settings.engine_stop_s)
    engine = EngineProcess(
        EngineConfig(
            model_path=model_path,
            model_name=settings.model_name,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            options=settings.engine,
            log_format=settings.log_format,
        ),
        start_s=settings.engine_start_s,
        stop_s=settings.engine_stop_s,
    )
    with leaving.heeding_signals():
        try:
            service = await leaving.unless_asked(start(settings, engine, leaving))
            if service is not None:
                await service.run()
        finally:
            await cancel([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])


@cli.command()
@click.argument("words", nargs=-1, metavar="")
@click.option("--model-name", help="A name from the model paths file.")
@click.option(
    "--model-path",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="In place of a name: a model folder, as `hf download` makes it.",
)
@click.option(
    "--prompt", default=DEFAULT_PROMPT, help="What is to be answered.", show_default="a question that tiny knows"
)
@click.option("--chat", is_flag=True, help="Send the prompt as a user's message, for the model's chat template.")
@click.option(
    "--max-new-tokens",
    type=int,
    help=f"At most so many tokens.  [default: {DEFAULT_MAX_NEW_TOKENS}, or what fits]",
)
@click.option("--device", default="cuda:0", help="As torch names it: cuda:0, cpu.")
@click.option(
    "--dtype", type=click.Choice(get_args(Dtype)), default="auto", help="Of weights, and of keys and values."
)
@click.option(
    "--weights",
    type=click.Choice(get_args(Weights)),
    default="auto",
    help="Their form, as engine.weights.",
)
@model_paths_option
def generate(
    *,
    words: tuple[str, ...],
    model_name: str | None,
    model_path: Path | None,
    prompt: str,
    chat: bool,
    max_new_tokens: int | None,
    device: str,
    dtype: str,
    weights: str,
    model_paths: Path | None,
) -> None:
    """Answer one prompt, without Redis.

    It goes to the model as it stands; with --chat, through the model's chat template, as instruct models want it.
    """
    if words:
        raise click.UsageError('the prompt is an option: --prompt "How are you?"')
    if model_name is None and model_path is None:
        raise click.UsageError("Missing option '--model-name', or '--model-path'.")
    from .progress import ShownProgress

    with ShownProgress() as shown:
        shown("importing torch", 0, 0)  # which takes seconds
        from . import standalone

    cut_off: list[int] = []
    standalone.generate(
        model_name,
        prompt,
        max_new_tokens,
        device,
        model_path=model_path,
        model_paths=model_paths,
        dtype=dtype,
        weights=weights,
        chat=chat,
        on_text=lambda text: click.echo(text, nl=False),
        on_cut_off=cut_off.append,
    )
    click.echo()
    if cut_off:
        allowed = "--max-new-tokens, or the context, allowed no more"
        click.echo(f"the text was cut off after {cut_off[0]} tokens: {allowed}", err=True)


@cli.command()
@model_name_option
@model_path_option
@redis_url_option
@prefix_option
@config_option
@click.option("--name", help="Of one worker: its whole name, or the stem that it was given.")
@click.option("--local", is_flag=True, help="Only workers of this host, which is a container's own name in one.")
def check(config_file: Path | None, name: str | None, local: bool, **options: Any) -> None:
    """Exit 0 when a worker that is ready serves the model.

    Else it says what there is, and exits 1; 3 without a broker.

    Give it the settings of the worker that it is to look for. It answers within 5 s, whatever the broker does.
    """
    from .health import workers_of

    settings = load_settings(config_file, **options)
    found = workers_of(settings.redis_url, Keys(settings.prefix), settings.model_name, name=name, local=local)
    states = [worker.model_state for worker in found]
    ready, loading = states.count("ready"), states.count("loading")
    click.echo(f"{settings.model_name}: {ready} ready, {loading} loading", err=True)
    if not ready:
        sys.exit(EXIT_FAILED)


@cli.command()
@model_name_option
@model_path_option
@device_option
@dtype_option
@redis_url_option
@prefix_option
@model_paths_option
@config_option
@click.option(
    "--no-redis", is_flag=True, help="Leave Redis out, as `genqueue doctor` does, which looks at it itself."
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def doctor(config_file: Path | None, no_redis: bool, as_json: bool, **options: Any) -> None:
    """Say what is wrong here, and what to do about it.

    Looks at Python, Redis, torch, GPU and model. One line for each thing: ok, a warning, or wrong, with what to
    do. Exit code 1 if anything is wrong. Without a model in any setting it looks at tiny.
    """
    from .doctor import examine

    findings = []
    for finding in examine(config_file, with_redis=not no_redis, **options):
        findings.append(finding)
        if not as_json:
            click.echo(shown([finding], as_json=False), nl=False)
    if as_json:
        click.echo(shown(findings, as_json=True), nl=False)
    if is_wrong(findings):
        sys.exit(EXIT_FAILED)


cli.add_command(verify)


def main() -> NoReturn:
    """Run the command line. An error that a person can mend is one line, and no traceback."""
    open_what_is_closed()
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = EXIT_BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except GenqueueError as error:
        logs.complain(str(error))
        code = _exit_code(error)
    except ModuleNotFoundError as error:
        if not _is_of_the_extra(error):
            raise
        logs.complain(f"{error.name} is not installed: pip install 'genqueue[worker]'")
        code = EXIT_BAD_INPUT
    sys.exit(code if isinstance(code, int) else 0)


def _is_of_the_extra(error: ModuleNotFoundError) -> bool:
    """Whether the missing module comes with the extra: a module of our own that is missing is our fault."""
    return error.name is not None and error.name.partition(".")[0] not in {"worker", "producer"}


def _exit_code(error: GenqueueError) -> int:
    if isinstance(error, BrokerUnavailable):
        return EXIT_NO_BROKER
    return EXIT_BAD_INPUT if isinstance(error, ConfigError | InvalidRequest) else EXIT_FAILED
