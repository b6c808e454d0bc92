"""What can be asked: the schemas of the bodies of requests. Those of fields that are called as ours are ours."""

from typing import Any

from ..contract import GenerationRequest
from ..contract.chat import MAX_TOOLS
from .asked import PRIORITIES
from .batch_rows import ENDPOINTS
from .batches import WINDOW
from .input_items import LONGEST_ID
from .response_tools import MODES
from .uploads import PURPOSE, SHORTEST_S

Schema = dict[str, Any]

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "seed", "ignore_eos", "cache_salt",
)  # fmt: skip
"""Fields that are called as ours are."""


def text(longest: int | None = None, shortest: int | None = None) -> Schema:
    """A text. What the size of the body bounds has no bound here."""
    bounds = {"minLength": shortest, "maxLength": longest}
    return {"type": "string", **{name: bound for name, bound in bounds.items() if bound is not None}}


def object_of(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object with these fields and no other. Any that may be left out may be null, too."""
    nullable = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in optional.items()}
    return {
        "type": "object",
        "properties": dict(sorted({**required, **nullable}.items())),
        "required": list(required),
        "additionalProperties": False,
    }


def list_of(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """A list of so many."""
    return {"type": "array", "items": items, "minItems": least, **({} if most is None else {"maxItems": most})}


FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 1}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}
_SCHEMA: Schema = {"type": "object"}
_METADATA = {
    "type": "object", "maxProperties": 16, "additionalProperties": text(512), "propertyNames": text(64),
}  # fmt: skip
_FUNCTION_FIELDS = {"description": text(), "parameters": _SCHEMA, "strict": FLAG}
_TOP = {"type": "integer", "minimum": 0, "maximum": 20}


def _constant(value: str) -> Schema:
    return {"const": value}


def _format_of_a_schema(*, is_nested: bool) -> Schema:
    """json_schema: in a chat the fields are in an object of their own."""
    name = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
    fields: dict[str, Schema] = {"name": name, "schema": _SCHEMA}
    more: dict[str, Schema] = {"description": text(4096), "strict": FLAG}
    kind = {"type": _constant("json_schema")}
    if is_nested:
        return object_of({**kind, "json_schema": object_of(fields, **more)})
    return object_of({**kind, **fields}, **more)


def _format(*, is_nested: bool) -> Schema:
    plain = [object_of({"type": _constant(kind)}) for kind in ("text", "json_object")]
    return {"anyOf": [*plain, _format_of_a_schema(is_nested=is_nested)]}


def _content(*kinds: str) -> Schema:
    part = {
        "type": "object",
        "properties": {"type": {"enum": list(kinds)}, "text": text()},
        "required": ["type", "text"],
        **({"additionalProperties": False} if kinds == ("text",) else {}),
    }
    return {"anyOf": [text(), list_of(part, 1)]}


def _turn() -> Schema:
    """Of a chat."""
    called = object_of({"name": _NAME, "arguments": text()})
    call = object_of({"type": _constant("function"), "function": called}, id=text(64, 1))
    content = _content("text")
    calls = {"tool_calls": list_of(call, 1)}
    return {
        "anyOf": [
            object_of({"role": {"enum": ["system", "developer", "user"]}, "content": content}),
            object_of({"role": _constant("assistant"), "content": content}, reasoning=text(), **calls),
            object_of({"role": _constant("assistant"), **calls}, reasoning=text(), content=content),
            object_of({"role": _constant("tool"), "content": content}, tool_call_id=text(64, 1)),
        ]
    }


def _item() -> Schema:
    """Of a response's input. What a response has given as its output is taken as it is."""
    parts = ("input_text", "output_text", "text")
    call_id = text(LONGEST_ID, 1)
    roles = {"enum": ["system", "developer", "user", "assistant"]}

    def item(kind: str, **fields: Schema) -> Schema:
        properties = {"type": _constant(kind), **fields}
        return {"type": "object", "properties": properties, "required": list(properties)}

    message = item("message", role=roles, content=_content(*parts))
    message["required"] = ["role", "content"]
    thought = {"type": "object", "properties": {"text": text()}, "required": ["text"]}
    return {
        "anyOf": [
            message,
            item("function_call", call_id=call_id, name=_NAME, arguments=text()),
            item("function_call_output", call_id=call_id, output=_content(*parts)),
            item("reasoning", summary=list_of(thought)),
        ]
    }


def schemas() -> dict[str, Schema]:
    """By name."""
    ours = GenerationRequest.model_json_schema()["properties"]
    common: dict[str, Schema] = {
        **{name: _not_null(ours[name]) for name in _SAMPLING},
        "stream": FLAG, "store": FLAG, "metadata": _METADATA, "user": text(512),
        "safety_identifier": text(512), "prompt_cache_key": text(1024),
        "service_tier": {"enum": list(PRIORITIES)},
        "stop": {"anyOf": [text(256, 1), list_of(text(256, 1), 0, 16)]},
        "min_tokens": {"type": "integer", "minimum": 0},
        "logit_bias": {
            "type": "object", "maxProperties": 1024, "propertyNames": {"pattern": "^[0-9]{1,7}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        },
    }  # fmt: skip
    of_completions = {
        **common, "n": {**COUNT, "maximum": 128}, "max_tokens": COUNT,
        "stream_options": object_of({}, include_usage=FLAG), "response_format": _format(is_nested=True),
    }  # fmt: skip
    ids = list_of({"type": "integer", "minimum": 0}, 1)
    one = {"anyOf": [text(shortest=1), ids]}
    model = text(200, 1)
    return {
        "ChatCompletionRequest": object_of(
            {"model": model, "messages": list_of(_turn(), 1)},
            **of_completions, **_chat_tools(), max_completion_tokens=COUNT, logprobs=FLAG, top_logprobs=_TOP,
        ),
        "CompletionRequest": object_of(
            {"model": model, "prompt": {"anyOf": [text(shortest=1), ids, list_of(one, 1, 128)]}},
            **of_completions, logprobs=_TOP,
        ),
        "ResponseRequest": object_of(
            {"model": model, "input": {"anyOf": [text(), list_of(_item(), 1)]}},
            **common, **_response_tools(), instructions=text(), previous_response_id=text(200), background=FLAG,
            max_output_tokens=COUNT, top_logprobs=_TOP, text=object_of({}, format=_format(is_nested=False)),
            include=list_of(_constant("message.output_text.logprobs"), 0, 1),
        ),
        "MetadataRequest": object_of({"metadata": {"anyOf": [_METADATA, {"type": "null"}]}}),
        "UploadRequest": _upload(),
        "BatchRequest": _batch(),
    }  # fmt: skip


def _upload() -> Schema:
    """A form, whose fields are texts."""
    expiry = {"expires_after[anchor]": _constant("created_at"), "expires_after[seconds]": text()}
    file: Schema = {"type": "string", "format": "binary"}
    return object_of({"file": file, "purpose": _constant(PURPOSE)}, **expiry)


def _batch() -> Schema:
    window: Schema = {"type": "string", "pattern": WINDOW}
    seconds: Schema = {"type": "integer", "minimum": SHORTEST_S}
    return object_of(
        {"input_file_id": text(), "endpoint": {"enum": list(ENDPOINTS)}, "completion_window": window},
        metadata=_METADATA,
        output_expires_after=object_of({"anchor": _constant("created_at"), "seconds": seconds}),
    )


def _chat_tools() -> dict[str, Schema]:
    function = object_of({"name": _NAME}, **_FUNCTION_FIELDS)
    named = object_of({"type": _constant("function"), "function": object_of({"name": _NAME})})
    return {
        "tools": list_of(object_of({"type": _constant("function"), "function": function}), 0, MAX_TOOLS),
        "tool_choice": {"anyOf": [{"enum": list(MODES)}, named]},
        "parallel_tool_calls": FLAG,
    }


def _response_tools() -> dict[str, Schema]:
    """There a function has no object of its own."""
    named = object_of({"type": _constant("function"), "name": _NAME})
    allowed = object_of(
        {"type": _constant("allowed_tools"), "tools": list_of(named, 1, MAX_TOOLS)}, mode={"enum": list(MODES)}
    )
    tool = object_of({"type": _constant("function"), "name": _NAME}, **_FUNCTION_FIELDS)
    return {
        "tools": list_of(tool, 0, MAX_TOOLS),
        "tool_choice": {"anyOf": [{"enum": list(MODES)}, named, allowed]},
        "parallel_tool_calls": FLAG,
    }


def _not_null(schema: Schema) -> Schema:
    """Pydantic's, without what it says of null, which every optional field may be."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
    [kind] = kinds
    return {name: value for name, value in kind.items() if name not in ("default", "title")}
