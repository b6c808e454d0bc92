"""A group of commands each of which is imported when it is run: none waits for what another one needs."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import click


class Place(NamedTuple):
    """Where a command is, and its line in the list of commands, for which nothing is imported.

    A test holds the line against the command's own help.
    """

    module: str
    name: str
    short_help: str


class LazyCommands(Mapping[str, click.Command]):
    """Commands by name. Each is imported when it is looked up, and not before."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> click.Command:
        place = self._places[name]
        with _uncollected():
            command = getattr(import_module(f".{place.module}", __package__), place.name)
        assert isinstance(command, click.Command)
        return command

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: an import makes next to no garbage, and much that would be looked through."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class LazyGroup(click.Group):
    """Its help lists the commands as a person meets them, and not by name.

    of_the_worker: commands of the other program; whoever gives one here is told so.
    """

    def __init__(self, *, places: Mapping[str, Place], of_the_worker: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self.commands = LazyCommands(places)  # type: ignore[assignment]  # nothing is added to them
        self._places = places
        self._of_the_worker = of_the_worker

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, in the order of the table."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """click's; one of the other program is told so."""
        if cmd_name in self._of_the_worker:
            raise click.UsageError(f"{cmd_name} is a command of the worker's: genqueue-worker {cmd_name}", ctx)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """click's, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.short_help) for name, place in self._places.items()])
