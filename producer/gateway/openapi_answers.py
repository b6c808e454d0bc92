"""What is answered: the schemas of whole answers, as far as all of them have it."""

from typing import Any

from .calls import ID_PREFIX
from .openapi_bodies import Schema

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_NUMBER: Schema = {"type": "integer", "minimum": 0}
_OBJECT: Schema = {"type": "object"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _has(**fields: Schema) -> Schema:
    """An object that has these fields, beside others that it may have."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _id(kind: Any) -> Schema:
    return {"type": "string", "pattern": f"^{ID_PREFIX[kind]}"}


def _ending(**fields: Schema) -> Schema:
    reasons = {"enum": ["stop", "length", "tool_calls"]}
    return _list(_has(index=_NUMBER, logprobs=_or_null(_OBJECT), finish_reason=reasons, **fields))


def schemas() -> dict[str, Schema]:
    """By name."""
    function = _has(name=_TEXT, arguments=_TEXT)
    call = _has(id=_TEXT, type={"const": "function"}, function=function)
    message = _has(role={"const": "assistant"}, content=_or_null(_TEXT))
    message["properties"] |= {"tool_calls": _list(call), "reasoning": _TEXT}
    usage = _has(prompt_tokens=_NUMBER, completion_tokens=_NUMBER, total_tokens=_NUMBER)
    frame = {"created": _NUMBER, "model": _TEXT, "usage": usage}
    model = _has(
        id=_TEXT, object={"const": "model"}, created=_NUMBER, owned_by=_TEXT, max_model_len=_or_null(_NUMBER),
        state={"enum": ["loading", "ready"]}, workers=_NUMBER, queued=_NUMBER, running=_NUMBER,
    )  # fmt: skip
    errors = {"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)}
    return {
        "ChatCompletion": _has(
            id=_id("chat"), object={"const": "chat.completion"}, choices=_ending(message=message), **frame
        ),
        "Completion": _has(
            id=_id("completions"), object={"const": "text_completion"}, choices=_ending(text=_TEXT), **frame
        ),
        "Response": _response(),
        "Items": _has(
            object={"const": "list"}, data=_list(_has(type=_TEXT, id=_TEXT)), first_id=_or_null(_TEXT),
            last_id=_or_null(_TEXT), has_more=_FLAG,
        ),
        "List": _has(
            object={"const": "list"}, data=_list(_has(id=_TEXT)), first_id=_or_null(_TEXT),
            last_id=_or_null(_TEXT), has_more=_FLAG,
        ),
        "File": _has(
            id=_TEXT, object={"const": "file"}, bytes=_NUMBER, created_at=_NUMBER, filename=_TEXT, purpose=_TEXT
        ),
        "Batch": _has(
            id=_TEXT, object={"const": "batch"}, endpoint=_TEXT, input_file_id=_TEXT, status=_TEXT,
            created_at=_NUMBER, request_counts=_has(total=_NUMBER, completed=_NUMBER, failed=_NUMBER),
        ),
        "Deleted": _has(id=_TEXT, object=_TEXT, deleted={"const": True}),
        "Model": model,
        "Models": _has(object={"const": "list"}, data=_list(model)),
        "Health": _has(status={"const": "ok"}),
        "Ready": _has(status={"const": "ready"}, models=_list(_TEXT)),
        "Document": _has(openapi=_TEXT, info=_OBJECT, paths=_OBJECT),
        "Error": _has(error=_has(**errors)),
    }  # fmt: skip


def _response() -> Schema:
    status = {"enum": ["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"]}
    text = _list(_has(type=_TEXT, text=_TEXT))
    items = [
        _has(type={"const": "message"}, id=_TEXT, status=_TEXT, role={"const": "assistant"}, content=text),
        _has(type={"const": "reasoning"}, id=_TEXT, summary=text, content=text),
        _has(type={"const": "function_call"}, id=_TEXT, call_id=_TEXT, name=_TEXT, arguments=_TEXT, status=_TEXT),
    ]
    usage = _has(input_tokens=_NUMBER, output_tokens=_NUMBER, total_tokens=_NUMBER)
    return _has(
        id=_id("responses"), object={"const": "response"}, created_at=_NUMBER, completed_at=_or_null(_NUMBER),
        status=status, model=_TEXT, output=_list({"anyOf": items}),
        error=_or_null(_has(code=_TEXT, message=_TEXT)),
        incomplete_details=_or_null(_has(reason=_TEXT)), usage=_or_null(usage), tools=_list(_OBJECT),
        previous_response_id=_or_null(_TEXT), metadata=_OBJECT, store=_FLAG, background=_FLAG,
    )  # fmt: skip
