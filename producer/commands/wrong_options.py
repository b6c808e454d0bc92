"""What to say of an option that there is not: the same as `submit()` says of such an argument."""

import click

from ..contract import GenerationRequest
from ..contract.refusals import ELSEWHERE, for_options
from ..submission import OF_THE_CALL


def advised(error: click.NoSuchOption) -> click.UsageError:
    """The error, with what the option is called here, if people bring its name along from elsewhere.

    click itself names the options that look like it.
    """
    name = error.option_name.lstrip("-").replace("-", "_")
    command = error.ctx.command if error.ctx is not None else None
    if isinstance(command, click.Group) and any(
        _has(each, error.option_name) for each in command.commands.values()
    ):
        said = "it stands behind the command, as in genqueue submit"
    elif name == "model" and command is not None and _has(command, "--model-name"):
        said = "it is called --model-name"
    elif name in ELSEWHERE:
        said = for_options(ELSEWHERE[name], (*GenerationRequest.model_fields, *OF_THE_CALL))
    else:
        return error
    return click.UsageError(f"No such option '{error.option_name}': {said}", error.ctx)


def _has(command: click.Command, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)
