"""A chat and its tools, as a request holds them: OpenAI's form, read strictly.

A message's content and a call's arguments are texts here, whatever form they came in.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StrictBool, StrictStr, model_validator

from .strict import Frozen
from .structured import MAX_GRAMMAR_CHARS

MAX_PROMPT_CHARS = 4_000_000
"""More than any context of today holds; a longer prompt is refused unread."""
MAX_TOOLS = 128
"""Of a request. The number is OpenAI's."""
MAX_TOOL_CALLS = 10_000
"""Of a message. No context of today holds an answer with more."""
MAX_TEMPLATE_KWARGS = 64
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
"""OpenAI's, and dots beside it, which other makers of tools have in their names."""
TEMPLATE_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
NOT_OF_THE_TEMPLATE = frozenset({
    "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "sanitize_control_tokens", "tokenizer_kwargs",
    "processor_kwargs", "tool_choice",
})  # fmt: skip
"""What is said otherwise, or not at all: fields of the request, and how transformers applies a template."""


def _function_name(name: str) -> str:
    if not FUNCTION_NAME.fullmatch(name):
        raise ValueError("a function's name is 1 to 64 letters, digits, `_`, `-` and `.`")
    return name


def _text_of_parts(content: Any) -> Any:
    """The text of a list of parts, a line each, as vLLM joins them."""
    if not isinstance(content, list | tuple):
        return content
    return "\n".join(map(_text_of, content))


def _text_of(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text), **rest} if not rest:
            return text
        case {"type": str(kind)} if kind != "text":
            raise ValueError(f"a part of the type {kind!r:.40} is not read here: parts are of the type 'text'")
    raise ValueError('a part of a content is {"type": "text", "text": ...}, and nothing else')


def _arguments_as_text(arguments: Any) -> Any:
    """OpenAI's form, a text, of transformers', an object."""
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments


FunctionName = Annotated[StrictStr, AfterValidator(_function_name)]
Content = Annotated[StrictStr, BeforeValidator(_text_of_parts), Field(max_length=MAX_PROMPT_CHARS)]
Arguments = Annotated[StrictStr, BeforeValidator(_arguments_as_text), Field(max_length=MAX_PROMPT_CHARS)]


class FunctionCallParam(Frozen):
    """Which function an assistant has called, and with what."""

    name: FunctionName
    arguments: Arguments
    """A JSON object as text, as the model wrote it; an object is taken, too."""


class ToolCallParam(Frozen):
    """A call in an assistant's message."""

    id: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = None
    type: Literal["function"] = "function"
    function: FunctionCallParam


class Message(Frozen):
    """One turn of a chat, for the model's chat template."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Content
    """A text, or a list of text parts. It may be missing, or null, beside tool_calls."""
    tool_calls: Annotated[tuple[ToolCallParam, ...], Field(max_length=MAX_TOOL_CALLS)] = ()
    """What an assistant has called."""
    tool_call_id: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = None
    """Of a tool's answer: the call that it is to."""
    reasoning: Annotated[StrictStr, Field(max_length=MAX_PROMPT_CHARS)] | None = None
    """What an assistant thought before, for templates that show it: they know it as `reasoning_content`."""

    @model_validator(mode="before")
    @classmethod
    def _content_may_be_missing_beside_calls(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("tool_calls") and fields.get("content") is None:
            return {**fields, "content": ""}
        return fields

    @model_validator(mode="after")
    def _suits_its_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls are an assistant's, who has role 'assistant'")
        if self.reasoning is not None and self.role != "assistant":
            raise ValueError("reasoning is an assistant's, who has role 'assistant'")
        if self.tool_call_id is not None and self.role != "tool":
            raise ValueError("tool_call_id is of a tool's answer, which has role 'tool'")
        return self


class FunctionDefinition(Frozen):
    """A function that the model may call."""

    name: FunctionName
    description: Annotated[StrictStr, Field(max_length=MAX_PROMPT_CHARS)] | None = None
    parameters: dict[str, JsonValue] | None = None
    """A JSON schema of the arguments, which are an object."""
    strict: StrictBool | None = None
    """Whether the arguments of each call are held to the schema."""


class Tool(Frozen):
    """A tool of a request. OpenAI's form leaves room for others than functions."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Frozen):
    """The function that is to be called."""

    name: FunctionName


class NamedToolChoice(Frozen):
    """A call of this function, and of no other."""

    type: Literal["function"]
    function: NamedFunction


def _tools(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    names = [tool.function.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"the function {twice!r} is there twice")
    _check_size([tool.model_dump(mode="json") for tool in tools])
    return tools


def _tool_choice(choice: Any) -> Any:
    if choice in ("none", "auto", "required") or isinstance(choice, Mapping | NamedToolChoice):
        return choice
    raise ValueError('it is none, auto, required, or {"type": "function", "function": {"name": ...}}')


def _template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if not TEMPLATE_VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r:.40} is no name of a variable")
        if name in NOT_OF_THE_TEMPLATE:
            raise ValueError(f"{name!r} is not for the template to read: leave it out")
    _check_size(kwargs)
    return kwargs


def _check_size(value: Any) -> None:
    if len(json.dumps(value, ensure_ascii=False)) > MAX_PROMPT_CHARS:
        raise ValueError(f"it takes more than {MAX_PROMPT_CHARS} characters as JSON: no context holds it")


Tools = Annotated[tuple[Tool, ...], Field(min_length=1, max_length=MAX_TOOLS), AfterValidator(_tools)]
ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedToolChoice, BeforeValidator(_tool_choice)]
ChatTemplateKwargs = Annotated[
    dict[str, JsonValue], Field(max_length=MAX_TEMPLATE_KWARGS), AfterValidator(_template_kwargs)
]


def check_tool_choice(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> None:
    """Raises ValueError where the choice is not among the tools."""
    if choice is None:
        return
    if not tools:
        raise ValueError("tool_choice says what becomes of tools, of which there are none")
    if isinstance(choice, NamedToolChoice) and choice.function.name not in {tool.function.name for tool in tools}:
        raise ValueError(f"tool_choice names the function {choice.function.name!r}, which is not among the tools")


def check_schemas(tools: Sequence[Tool]) -> None:
    """Raises ValueError where the schemas are too much for what holds a model to them."""
    size = sum(len(json.dumps(tool.function.parameters, ensure_ascii=False)) for tool in tools)
    if size > MAX_GRAMMAR_CHARS:
        raise ValueError(
            f"the schemas that a call is held to may have {MAX_GRAMMAR_CHARS} characters as JSON, and these "
            f"have {size}: leave tool_choice and strict out, or some of the tools"
        )
