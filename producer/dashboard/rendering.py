"""What reaches the browser: values as text and never as markup, numbers as they are."""

import re
from collections.abc import Mapping
from typing import Any

from flask.json.provider import DefaultJSONProvider
from jinja2.ext import Extension

EXACT_IN_BROWSER = 2**53
"""Up to here JavaScript's numbers are exact."""


class EscapeInBrowser(Extension):
    """Turns `<%= … %>` of the Underscore templates into `<%- … %>`, which escapes HTML.

    The pages fill their tables with what jobs hold, a model's output among it: as HTML it would be run.
    """

    #: Some places escape already, through jQuery.
    _UNESCAPED = re.compile(r"<%=(?!\s*\$\('<div/>'\))")

    def preprocess(self, source: str, *_: Any, **__: Any) -> str:
        """The template with its places escaped; Jinja calls this before it compiles one."""
        return self._UNESCAPED.sub("<%-", source)


class ExactNumbers(DefaultJSONProvider):
    """JSON in which a number that JavaScript would round, as a seed may be, is written as text."""

    def dumps(self, obj: Any, **options: Any) -> str:
        """Flask's."""
        return super().dumps(_with_exact_numbers(obj), **options)


def _with_exact_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_exact_numbers(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_exact_numbers(part) for part in value]
    is_rounded = isinstance(value, int) and not isinstance(value, bool) and abs(value) > EXACT_IN_BROWSER
    return str(value) if is_rounded else value
