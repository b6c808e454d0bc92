"""`/openapi.json`: the paths and the fields that are served, made of the same tables as what serves them."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..contract import GenerationRequest
from ..contract.version import VERSION
from .asked import PRIORITIES

_TEXT, _FLAG = {"type": "string"}, {"type": "boolean"}
_METADATA = {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 512}}
_TIER = {"enum": list(PRIORITIES)}
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "ignore_eos",
    "cache_salt",
)  # fmt: skip """Fields that are called as ours are."""
_COUNT = {"type": "integer", "minimum": 1}
_COMMON: dict[str, Any] = {
    "model": _TEXT,
    "stream": _FLAG,
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}, "additionalProperties": False},
    "n": _COUNT,
    "max_tokens": _COUNT,
    "min_tokens": {"type": "integer", "minimum": 0},
    "stop": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 16}]},
    "store": _FLAG,
    "metadata": _METADATA,
    "user": _TEXT,
    "service_tier": _TIER,
    "logit_bias": {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
    "response_format": {
        "type": "object",
        "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
    },
}
_TOOL = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "function": {"type": "object", "properties": {"name": _TEXT}}},
    "required": ["type", "function"],
}
_PART = {"type": "object", "properties": {"type": _TEXT, "text": _TEXT}, "required": ["type", "text"]}
_TURN = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": _PART, "minItems": 1}]},
    },
    "required": ["role", "content"],
}
_TURNS = {"type": "array", "items": _TURN, "minItems": 1}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_STARTING_AFTER = {
    "name": "starting_after", "in": "query", "schema": _TEXT,
    "description": "The id of the last event that was seen: the answer comes as events, from there on.",
}  # fmt: skip
_STREAM = {"name": "stream", "in": "query", "schema": {"enum": ["true", "false"]}}
_ID = {"name": "id", "in": "path", "required": True, "schema": _TEXT}


def routes() -> list[Route]:
    """Of this file."""
    return [Route("/openapi.json", show)]


async def show(_: Request) -> Response:
    """The document."""
    return JSONResponse(document())


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "genqueue",
            "version": VERSION,
            "description": "OpenAI's API, over a queue whose streams survive kills.",
        },
        "security": [{}, {"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {**_bodies(), "Error": _error()},
        },
        "paths": _paths(),
    }


def _bodies() -> dict[str, Any]:
    ours = GenerationRequest.model_json_schema()["properties"]
    sampling = {name: ours[name] for name in _SAMPLING}
    chat = {
        **_COMMON, **sampling, "messages": _TURNS, "max_completion_tokens": _COUNT, "logprobs": _FLAG,
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20}, "prompt_cache_key": _TEXT,
        "safety_identifier": _TEXT, "tools": {"type": "array", "items": _TOOL, "maxItems": 128},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, _TOOL]},
    }  # fmt: skip
    prompt = {"anyOf": [_TEXT, _IDS, {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}, "minItems": 1}]}
    completion = {
        **_COMMON,
        **sampling,
        "prompt": prompt,
        "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    }
    of_both = ("model", "stream", "stop", "min_tokens", "store", "metadata", "user", "service_tier", "logit_bias")
    response = {
        **{name: _COMMON[name] for name in of_both}, **sampling, "input": {"anyOf": [_TEXT, _TURNS]},
        "instructions": _TEXT, "previous_response_id": _TEXT, "background": _FLAG, "max_output_tokens": _COUNT,
        "include": {"type": "array", "items": {"const": "message.output_text.logprobs"}},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20}, "prompt_cache_key": _TEXT,
        "safety_identifier": _TEXT, "parallel_tool_calls": _FLAG,
        "text": {"type": "object", "properties": {"format": _COMMON["response_format"]}},
    }  # fmt: skip
    return {
        "ChatCompletion": _object(chat, "model", "messages"),
        "Completion": _object(completion, "model", "prompt"),
        "Response": _object(response, "model", "input"),
    }


def _object(fields: dict[str, Any], *required: str) -> dict[str, Any]:
    """Any field that may be left out may be null, too."""
    return {
        "type": "object",
        "properties": {
            name: schema if name in required else {"anyOf": [schema, {"type": "null"}]}
            for name, schema in sorted(fields.items())
        },
        "required": list(required),
        "additionalProperties": False,
    }


def _error() -> dict[str, Any]:
    names = {
        "message": _TEXT,
        "type": _TEXT,
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
    }
    return {
        "type": "object",
        "properties": {"error": {"type": "object", "properties": names, "required": list(names)}},
    }


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v1/models": {"get": _operation("The models that workers serve")},
        "/v1/models/{id}": {"get": _operation("One of them", _ID)},
        "/v1/queue": {"get": _operation("Workers, and jobs that wait, run and have ended")},
        "/v1/queue/{id}": {"get": _operation("What has happened to one job", _ID)},
        "/health": {"get": _operation("The process answers")},
        "/ready": {"get": _operation("Redis answers, and a worker serves a model")},
        "/metrics": {"get": _operation("For Prometheus", kinds=("text/plain",))},
        "/openapi.json": {"get": _operation("This document")},
    }
    for path, body in (
        ("chat/completions", "ChatCompletion"),
        ("completions", "Completion"),
        ("responses", "Response"),
    ):
        later = () if body == "Response" else (_PREFER,)
        create = _operation("An answer, whole or as events", _KEY, _PRIORITY, *later, body=body)
        paths[f"/v1/{path}"] = {"post": create}
        paths[f"/v1/{path}/{{id}}"] = {
            "get": _operation(
                "An answer, or its events behind those that were seen", _ID, _STREAM, _STARTING_AFTER, kinds=_BOTH
            ),
            "delete": _operation("Delete it; one that is not whole is cancelled first", _ID),
        }
    one = "/v1/responses/{id}"
    paths[f"{one}/cancel"] = {"post": _operation("End it early, and keep what it has", _ID)}
    page = [{"name": name, "in": "query", "schema": _TEXT} for name in ("after", "limit", "order")]
    paths[f"{one}/input_items"] = {"get": _operation("What it was asked with", _ID, *page)}
    return paths


_BOTH = ("application/json", "text/event-stream")
_KEY = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255}}
_PRIORITY = {"name": "X-Priority", "in": "header", "schema": {"enum": ["high", "normal", "low"]}}

_PREFER = {
    "name": "Prefer", "in": "header", "schema": {"enum": ["respond-async"]},
    "description": "Be answered at once, and read the answer by GET.",
}  # fmt: skip


def _operation(
    summary: str,
    *parameters: dict[str, Any],
    body: str | None = None,
    kinds: tuple[str, ...] = ("application/json",),
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    kinds = _BOTH if body else kinds
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "As OpenAI has it", "content": {kind: {} for kind in kinds}},
            "default": {"description": "What went wrong", "content": error},
        },
    }
    if _STARTING_AFTER in parameters:
        operation["responses"]["204"] = {"description": "All of it was seen"}
    if _PREFER in parameters:
        operation["responses"]["202"] = {"description": "Taken in: `Location` says where the answer is"}
    if body is not None:
        schema = {"schema": {"$ref": f"#/components/schemas/{body}"}}
        operation["requestBody"] = {"required": True, "content": {"application/json": schema}}
    return operation
