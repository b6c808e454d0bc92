"""A model's chat template: the prompt that a chat with its tools becomes, and how the model writes its answers.

What a template knows, it is asked once, with a chat of ours. Knows texts, and no ids.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from producer.contract import InvalidRequest, Markup, Message
from producer.contract.chat import Tool
from producer.contract.views.message_view import parts_of
from producer.contract.views.syntaxes import END_OF_THINK, END_OF_TOOL_CALL, READERS, THINK, TOOL_CALL, TOOL_CALLS

Chat = Sequence[Mapping[str, Any]]


class CallSpelling(NamedTuple):
    """What stands before the function's name, between it and the arguments, and behind them."""

    before: str
    between: str
    after: str
    join: str | None
    """What stands between the arguments of a call and the name of the next one; None: there is one call alone."""


_REFUSALS = (TemplateError, TypeError, ValueError)
_ARGUMENTS = {"genqueue_argument": "genqueue"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "genqueue_tool",
        "description": "Genqueue.",
        "parameters": {
            "type": "object",
            "properties": {"genqueue_argument": {"type": "string", "description": "Genqueue."}},
            "required": ["genqueue_argument"],
        },
    },
}
_ASKED: Chat = [{"role": "user", "content": "Hello"}]
_CALLS = [
    {"id": call_id, "type": "function", "function": {"name": "genqueue_tool", "arguments": _ARGUMENTS}}
    for call_id in ("genqueue1", "genqueue2")
]
_CALL_ENDS = {
    "hermes": (TOOL_CALL, END_OF_TOOL_CALL),
    "llama3_json": ("{", "}"),
    "mistral": (TOOL_CALLS, "]"),
}
_USUAL = {
    "hermes": CallSpelling(
        f'{TOOL_CALL}\n{{"name": "',
        '", "arguments": ',
        f"}}\n{END_OF_TOOL_CALL}",
        f'}}\n{END_OF_TOOL_CALL}\n{TOOL_CALL}\n{{"name": "',
    ),
    "llama3_json": CallSpelling('{"name": "', '", "parameters": ', "}", None),
    "mistral": CallSpelling(f'{TOOL_CALLS}[{{"name": "', '", "arguments": ', "}]", '}, {"name": "'),
}
"""Where a template has more to say of a call than can be told apart."""
_ID = re.compile(', "id": "genqueue[12]"')
"""Mistral's writes it into each call; models leave it out."""
_CALLED: Chat = [*_ASKED, {"role": "assistant", "content": "", "tool_calls": _CALLS[:1]}]
_CALLED_TWICE: Chat = [*_ASKED, {"role": "assistant", "content": "", "tool_calls": _CALLS}]


class ChatTemplate:
    """That of one tokenizer, or none."""

    def __init__(self, hf: PreTrainedTokenizerBase) -> None:
        self._hf = hf

    def __bool__(self) -> bool:
        return bool(self._hf.chat_template)

    def render(self, chat: Chat, *, tools: Sequence[Any] | None = None, **variables: Any) -> str:
        """The text of a chat.  Raises what the template raises."""
        return str(self._hf.apply_chat_template(list(chat), tools=tools, tokenize=False, **variables))  # type: ignore[arg-type]

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that a chat becomes, up to where the assistant answers. It holds its special tokens.

        Raises InvalidRequest where there is no template, or it cannot do what it is asked for.
        """
        if not self:
            raise InvalidRequest("this model has no chat template: send `prompt` instead of `messages`")
        schemas = [_schema(tool) for tool in tools] if tools else None
        if schemas:
            self._check_tools()
        self._check_variables(variables or {}, schemas)
        chat = [_as_templates_have_it(message) for message in messages]
        try:
            return self.render(chat, tools=schemas, add_generation_prompt=True, **(variables or {}))
        except _REFUSALS as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from error

    @cached_property
    def knows_tools(self) -> bool:
        """Whether it tells the model of tools."""
        return "genqueue_argument" in self._rendered(_ASKED, add_generation_prompt=True)

    @cached_property
    def tool_format(self) -> str | None:
        """The form in which it writes calls; None where it is none of ours, or there are no tools."""
        if not self.knows_tools:
            return None
        called, asked = self._rendered(_CALLED), self._rendered(_ASKED)
        prompt = self._rendered(_ASKED, add_generation_prompt=True)
        # Prompts that have the model think first end in what no turn of the past begins with.
        answers = {"llama3_json": _behind(prompt, called)}
        return next((name for name in READERS if _writes(name, answers.get(name, _behind(asked, called)))), None)

    @cached_property
    def call_spelling(self) -> CallSpelling:
        """How it writes a call in its form, to the letter; it has one."""
        name = str(self.tool_format)
        begin, end = _CALL_ENDS[name]
        before, _, rest = self._rendered(_CALLED).rpartition("genqueue_tool")
        before = before[max(0, before.rfind(begin)) :]
        for arguments in (json.dumps(_ARGUMENTS), json.dumps(_ARGUMENTS, separators=(",", ":"))):
            between, _, behind = rest.partition(arguments)
            after, found, _ = _ID.sub("", behind).partition(end)
            spelling = CallSpelling(before, between, after + found if "{" in before else "", None)
            if _writes(name, _spelled(spelling, arguments), calls=1):
                return spelling._replace(join=self._join(spelling, arguments))
        return _USUAL[name]

    def _join(self, spelling: CallSpelling, arguments: str) -> str | None:
        """What stands between the arguments of a call and the next name, if this template writes several calls."""
        begun, _, _ = self._rendered(_CALLED_TWICE).rpartition("genqueue_tool" + spelling.between + arguments)
        first, _, join = begun.rpartition(arguments)
        found = spelling._replace(join=_ID.sub("", join))
        if not first.endswith("genqueue_tool" + spelling.between):
            return None
        return found.join if _writes(str(self.tool_format), _spelled(found, arguments), calls=2) else None

    @cached_property
    def has_reasoning(self) -> bool:
        """Whether the model is one that thinks between tags before it answers."""
        return bool(self) and any(tag in self._source(None) for tag in (THINK, END_OF_THINK))

    def _rendered(self, chat: Chat, **variables: Any) -> str:
        """With a tool of ours; "" where the template refuses such a chat."""
        try:
            return self.render(chat, tools=[_TOOL], **variables) if self else ""
        except Exception:  # noqa: BLE001 - whatever it makes of our chat, it may serve others
            return ""

    def _source(self, tools: Sequence[Any] | None) -> str:
        try:
            return str(self._hf.get_chat_template(tools=tools))  # type: ignore[arg-type]
        except ValueError:  # there are several, and none of them is the default
            return ""

    def _check_tools(self) -> None:
        if not self.knows_tools:
            raise InvalidRequest(
                "tools: the chat template of this model knows none: leave them out, or use a model that was "
                "taught to call tools"
            )
        if self.tool_format is None:
            raise InvalidRequest(
                f"tools: this model writes calls in a form that is not read here, which is none of "
                f"{', '.join(READERS)}: describe the tools in messages, and read the calls from the text"
            )

    def _check_variables(self, variables: Mapping[str, Any], tools: Sequence[Any] | None) -> None:
        source = self._source(tools) if variables else ""
        for name in variables:
            if not re.search(rf"\b{name}\b", source):
                raise InvalidRequest(
                    f"chat_template_kwargs: the chat template of this model knows no {name!r}: leave it out"
                )


def _schema(tool: Tool) -> dict[str, Any]:
    """As models were shown it: `strict` is for us."""
    return tool.model_dump(mode="json", exclude_none=True, exclude={"function": {"strict"}})


def _as_templates_have_it(message: Message) -> dict[str, Any]:
    """Without the fields that are not there, as templates look whether they are; arguments as an object."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        fields["reasoning_content"] = message.reasoning
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = [call.model_dump(mode="json", exclude_none=True) for call in message.tool_calls]
        for call in fields["tool_calls"]:
            call["function"]["arguments"] = _object(call["function"]["arguments"])
    return fields


def _object(arguments: str) -> Any:
    """An object, where it is one: else the text, as the model will see what it has done."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _behind(before: str, text: str) -> str:
    """What the text has beyond that with which both begin."""
    same = next((at for at, pair in enumerate(zip(before, text, strict=False)) if len({*pair}) > 1), len(before))
    return text[same:]


def _spelled(spelling: CallSpelling, arguments: str) -> str:
    """A call of our tool, or two where there may be several."""
    call = f"genqueue_tool{spelling.between}{arguments}"
    return spelling.before + (call if spelling.join is None else call + spelling.join + call) + spelling.after


def _writes(name: str, text: str, *, calls: int | None = None) -> bool:
    """Whether calls of ours stand in that text in that form; `calls`: so many, and nothing else."""
    parts = parts_of("", Markup(tool_calls=name), text)
    called = [call.function for call in parts.tool_calls if call.function.name == "genqueue_tool"]
    if calls is not None and (parts.content or len(parts.tool_calls) != calls):
        return False
    return bool(called) and all(_object(call.arguments) == _ARGUMENTS for call in called[-(calls or 1) :])
