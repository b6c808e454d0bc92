"""The command line: `genqueue`, which is `python -m producer`. The commands themselves are in `commands`, each
of which is imported when it is run.

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

from .commands.lazy import LazyGroup, Place
from .commands.output import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_JOB_FAILED,
    EXIT_NO_BROKER,
    EXIT_NOT_NOW,
    NotWritten,
    ReaderGone,
    SaidAlready,
    say,
)
from .contract import BrokerUnavailable, GenqueueError, JobStranded, QueueFull, WaitTimeout
from .contract.version import VERSION
from .printable import open_what_is_closed

OF_THE_WORKER = ("run", "generate", "check")


COMMANDS = {
    "up": Place("up", "up", "Start a broker and a worker, and answer what is typed."),
    "broker": Place("broker", "broker", "Run a Redis server on this machine, and print its URL."),
    "submit": Place("submit", "submit", "Enqueue PROMPT, and print the job's id."),
    "stream": Place("follow", "stream", "Print the tokens of JOB as they come."),
    "result": Place("follow", "result", "Print the text of JOB once it has ended."),
    "batch": Place("batch", "batch", "Answer every row of IN with a line of OUT."),
    "continue": Place("again", "continue_", "Go on with JOB, and print the new job's id."),
    "cancel": Place("jobs", "cancel", "Cancel JOB, or many."),
    "status": Place("jobs", "status", "Print what is known of JOB."),
    "ps": Place("ps", "ps", "Show workers, and jobs that wait, run and have ended."),
    "models": Place("ps", "models", "List the models that have live workers, or jobs that wait."),
    "delete": Place("jobs", "delete", "Take JOB away, with all that the server has of it."),
    "dashboard": Place("dashboard", "dashboard", "Serve a dashboard of the jobs, for a browser."),
    "serve": Place("serve", "serve", "Serve OpenAI's API: http://127.0.0.1:8000/v1."),
    "doctor": Place("doctor", "doctor", "Say what is wrong here, and what to do about it."),
    "verify": Place("again", "verify", "Run JOB again on this machine, and compare token by token."),
}
"""In the order in which a person meets them."""


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    of_the_worker=OF_THE_WORKER,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(VERSION, prog_name="genqueue", message="%(prog)s %(version)s")
def cli() -> None:
    """Text generation through a job queue.

    First: genqueue up, which starts all there is and asks for a prompt.
    """


def main() -> NoReturn:
    """Entry point of `genqueue` and `python -m producer`."""
    open_what_is_closed()
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
        _advised(error).show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ReaderGone:
        _let_go_of_stdout()
        return EXIT_BROKEN_PIPE
    except GenqueueError as error:
        if isinstance(error, NotWritten):
            _let_go_of_stdout()
        say(said.rest_of(error))
        return _exit_code(error)
    finally:
        logger.removeHandler(said)


def _let_go_of_stdout() -> None:
    """Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _advised(error: click.ClickException) -> click.ClickException:
    if not isinstance(error, click.NoSuchOption):
        return error
    from .commands.wrong_options import advised

    return advised(error)


def _exit_code(error: GenqueueError) -> int:
    if isinstance(error, BrokerUnavailable):
        return EXIT_NO_BROKER
    if isinstance(error, JobStranded):
        return EXIT_JOB_FAILED
    return EXIT_NOT_NOW if isinstance(error, (QueueFull, WaitTimeout)) else EXIT_BAD_INPUT
