"""The second view of an answer: what of its text is said, thought and called. `views` makes it of the text.

The names are OpenAI's, those of a chat completion and of its chunks; `reasoning` is vLLM's.
"""

from typing import Literal, NamedTuple

from .tolerant import Tolerant

ToolFormat = Literal["hermes", "llama3_json", "mistral"]
"""How a model writes calls into its text. The names are those of vLLM's parsers."""


class Markup(Tolerant):
    """How the parts of a job's text are marked: a reader that knows it finds the same ones as the worker."""

    tool_calls: ToolFormat | str | None = None
    """None: calls are not looked for, as in a job without tools."""
    reasoning: Literal["think"] | str | None = None
    """think: between `<think>` and `</think>`, at the beginning."""
    reasoning_open: bool = False
    """Whether the prompt ended within the reasoning, so that the text begins there."""


class FunctionCall(Tolerant):
    """Which function, and with what."""

    name: str
    arguments: str
    """As the model wrote it: a JSON object, unless it was cut off, or has made a mistake."""


class ToolCall(Tolerant):
    """A call that the model has made."""

    id: str
    """Of the job's id and the call's place: the same whenever it is read."""
    type: str = "function"
    function: FunctionCall


class Parts(NamedTuple):
    """What a whole text comes to."""

    content: str
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]


class FunctionCallDelta(Tolerant):
    """More of a call: its name comes first, and once."""

    name: str | None = None
    arguments: str = ""


class ToolCallDelta(Tolerant):
    """More of the call in that place."""

    index: int
    id: str | None = None
    """With the call's first delta alone, as `type` and the function's name."""
    type: str | None = None
    function: FunctionCallDelta


class Delta(Tolerant):
    """More of an answer. Joined field by field, and call by call, the deltas are the message."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] | None = None
