"""What to say of an option that there is not: the same as `submit` says of such an argument, in options' names."""

import re

import click

from ..contract.refusals import ELSEWHERE

_NAMES = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|(?<=called )[a-z]+")
"""Names of ours in what is said there, as far as they are told from words."""


def advised(error: click.NoSuchOption) -> click.UsageError:
    """The error, with what the option is called here, if people bring its name along from elsewhere.

    click itself names the options that look like it.
    """
    meant = ELSEWHERE.get(error.option_name.lstrip("-").replace("-", "_"))
    if meant is None or error.ctx is None:
        return error
    parameters = (parameter for parameter in error.ctx.command.params if isinstance(parameter, click.Option))
    options = {parameter.name: parameter.opts[0] for parameter in parameters}
    said = _NAMES.sub(lambda name: options.get(name[0], name[0]), meant)
    return click.UsageError(f"No such option: {error.option_name}: {said}", error.ctx)
