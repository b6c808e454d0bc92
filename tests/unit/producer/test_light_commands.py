"""What a command does not need, it does not import: Python's imports are most of the time that `ps` takes."""

import subprocess
import sys

import click
import pytest

from producer.cli import COMMANDS, cli

HEAVY = ("pydantic", "redis", "rich", "rq", "asyncio", "producer.client")
"""What the list of commands and the version do without."""
OF_OTHERS = (
    *("rq", "rich.live", "rich.progress", "http.client", "urllib.request"),
    *("producer.async_client", "producer.many", "producer.local", "producer.broker.embedded", "producer.batch"),
    *("producer.commands.submit", "producer.commands.up", "producer.commands.doctor", "producer.dashboard"),
)
"""What `ps`, `models`, `cancel` and `status` do without. redis itself imports asyncio, and redis.asyncio."""

PROGRAM = f"""
import contextlib, io, sys
from producer.cli import run

def strays(names):
    return [name for name in names if name in sys.modules]

with contextlib.redirect_stdout(io.StringIO()):
    assert run(["--version"]) == run(["--help"]) == 0
    assert not (found := strays({HEAVY})), ("--help", found)
    import fakeredis
    from producer import client
    client.connect = lambda *_, **__: fakeredis.FakeRedis()
    assert not (found := strays({OF_OTHERS})), ("a producer", found)
    assert [run([name]) for name in ("ps", "models")] == [0, 0]
    assert [run([name, "a-job"]) for name in ("cancel", "status", "delete")] == [2, 2, 2]
    assert not (found := strays({OF_OTHERS})), found
"""


@pytest.mark.slow
def test_a_light_command_imports_what_it_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_commands_say_of_themselves(name: str) -> None:
    command = cli.commands[name]
    assert command.name == name
    assert command.get_short_help_str(limit=100) == COMMANDS[name].short_help
    assert len(f"  {name:<9}  {COMMANDS[name].short_help}") < 80


def test_another_name_is_no_command() -> None:
    assert cli.get_command(click.Context(cli), "frobnicate") is None
