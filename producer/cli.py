"""The command line: `genqueue`, which is `python -m producer`. The commands themselves are in `commands`.

stdout carries the answer, the job id or JSON, and nothing else; everything for people goes to stderr.

Exit codes: 0 done; 1 the job failed or was cancelled, `doctor` has found something wrong, or `verify` that two
runs part; 2 bad input; 3 no broker; 4 not now (the queue is full, or the wait ran out: try again); 130
interrupted; 141 the reader of stdout has gone.
"""

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from .commands.again import continue_, verify
from .commands.batch import batch
from .commands.broker import broker
from .commands.dashboard import dashboard
from .commands.doctor import doctor
from .commands.follow import result, stream
from .commands.jobs import cancel, delete, status
from .commands.output import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_JOB_FAILED,
    EXIT_NO_BROKER,
    EXIT_NOT_NOW,
    ReaderGone,
    SaidAlready,
    say,
)
from .commands.ps import models, ps
from .commands.serve import serve
from .commands.submit import submit
from .commands.up import up
from .commands.wrong_options import advised
from .contract import BrokerUnavailable, GenqueueError, JobStranded, QueueFull, WaitTimeout
from .contract.version import VERSION

OF_THE_WORKER = ("run", "generate", "check")


class _Commands(click.Group):
    """Its help lists the commands as a person meets them, and not by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, in the order in which they were added."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """click's; one of the other program is told so."""
        if cmd_name in OF_THE_WORKER:
            raise click.UsageError(f"{cmd_name} is a command of the worker's: genqueue-worker {cmd_name}", ctx)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="genqueue", message="%(prog)s %(version)s")
def cli() -> None:
    """Text generation through a job queue.

    First: genqueue up, which starts all there is and asks for a prompt.
    """


COMMANDS = (
    *(up, broker, submit, stream, result, batch, continue_, cancel, status),
    *(ps, models, delete, dashboard, serve, doctor, verify),
)

for command in COMMANDS:
    cli.add_command(command)


def main() -> NoReturn:
    """Entry point of `genqueue` and `python -m producer`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows something else for it
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; a user's mistake ends in a message, not in a traceback."""
    logger, said = logging.getLogger(__package__), SaidAlready()
    logger.addHandler(said)
    try:
        return int(cli.main(arguments, prog_name="genqueue", standalone_mode=False) or 0)
    except click.ClickException as error:
        shown = advised(error) if isinstance(error, click.NoSuchOption) else error
        shown.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ReaderGone:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except GenqueueError as error:
        say(said.rest_of(error))
        return _exit_code(error)
    finally:
        logger.removeHandler(said)


def _exit_code(error: GenqueueError) -> int:
    if isinstance(error, BrokerUnavailable):
        return EXIT_NO_BROKER
    if isinstance(error, JobStranded):
        return EXIT_JOB_FAILED
    return EXIT_NOT_NOW if isinstance(error, (QueueFull, WaitTimeout)) else EXIT_BAD_INPUT
