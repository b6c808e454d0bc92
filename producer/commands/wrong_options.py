"""What to say of an option that there is not: the same as `submit()` says of such an argument."""

import click

from ..contract import GenerationRequest
from ..contract.refusals import ELSEWHERE, for_options
from ..submission import OF_THE_CALL


def advised(error: click.NoSuchOption) -> click.UsageError:
    """The error, with what the option is called here, if people bring its name along from elsewhere.

    click itself names the options that look like it.
    """
    advice = ELSEWHERE.get(error.option_name.lstrip("-").replace("-", "_"))
    if advice is None:
        return error
    said = for_options(advice, (*GenerationRequest.model_fields, *OF_THE_CALL))
    return click.UsageError(f"No such option '{error.option_name}': {said}", error.ctx)
