"""`/openapi.json`: the paths and the fields that are served, made of the same tables as what serves them."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..contract.version import VERSION
from . import openapi_answers, openapi_bodies
from .cursors import FORM

_TEXT = {"type": "string"}
_STARTING_AFTER = {
    "name": "starting_after", "in": "query", "schema": {"type": "string", "pattern": f"^{FORM.pattern}$"},
    "description": "The id of the last event that was seen: the answer comes as events, from there on.",
}  # fmt: skip
_STREAM = {"name": "stream", "in": "query", "schema": {"enum": ["true", "false"]}}
_ID = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
_PURPOSE = {"name": "purpose", "in": "query", "schema": _TEXT}
_MODEL = {"name": "model", "in": "query", "schema": _TEXT}
_BOTH = ("application/json", "text/event-stream")
_KEY = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255}}
_PRIORITY = {"name": "X-Priority", "in": "header", "schema": {"enum": ["high", "normal", "low"]}}
_PREFER = {
    "name": "Prefer", "in": "header", "schema": {**_TEXT, "examples": ["respond-async"]},
    "description": "respond-async: be answered at once, and read the answer by GET.",
}  # fmt: skip


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
            "schemas": {**openapi_bodies.schemas(), **openapi_answers.schemas()},
        },
        "paths": _paths(),
    }


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v1/models": {"get": _operation("The models that workers serve", "Models")},
        "/v1/models/{id}": {"get": _operation("One of them", "Model", _ID)},
        "/v1/queue": {"get": _operation("Workers, and jobs that wait, run and have ended", None)},
        "/v1/queue/{id}": {"get": _operation("What has happened to one job", None, _ID)},
        "/health": {"get": _operation("The process answers", "Health")},
        "/ready": {"get": _operation("Redis answers, and a worker serves a model", "Ready")},
        "/metrics": {"get": _operation("For Prometheus", None, kinds=("text/plain",))},
        "/openapi.json": {"get": _operation("This document", "Document")},
    }
    for path, answer in (
        ("chat/completions", "ChatCompletion"),
        ("completions", "Completion"),
        ("responses", "Response"),
    ):
        headers = (_KEY, _PRIORITY, *(() if answer == "Response" else (_PREFER,)))
        create = _operation(
            "An answer, whole or as events", answer, *headers, body=f"{answer}Request", kinds=_BOTH
        )
        paths[f"/v1/{path}"] = {"post": create}
        paths[f"/v1/{path}/{{id}}"] = {
            "get": _operation(
                "An answer, or its events behind those that were seen", answer, _ID, _STREAM, _STARTING_AFTER,
                kinds=_BOTH,
            ),
            "delete": _operation("Delete it; one that is not whole is cancelled first", "Deleted", _ID),
        }  # fmt: skip
    one = "/v1/responses/{id}"
    paths[f"{one}/cancel"] = {"post": _operation("End it early, and keep what it has", "Response", _ID)}
    paths[f"{one}/input_items"] = {"get": _operation("What it was asked with", "Items", _ID, *_page(100))}
    return {**paths, **_of_stored_chats(paths), **_of_files(), **_of_batches()}


def _of_stored_chats(paths: dict[str, Any]) -> dict[str, Any]:
    every = "/v1/chat/completions"
    one = f"{every}/{{id}}"
    update = _operation("Give it other metadata", "ChatCompletion", _ID, body="MetadataRequest")
    return {
        every: {**paths[every], "get": _operation("Stored ones of the key", "List", _MODEL, *_page(100))},
        one: {**paths[one], "post": update},
        f"{one}/messages": {"get": _operation("What it was asked with", "List", _ID, *_page(100))},
    }


def _of_files() -> dict[str, Any]:
    one = "/v1/files/{id}"
    upload = _operation("Keep a file for batches", "File")
    form = {"multipart/form-data": {"schema": _named("UploadRequest")}}
    return {
        "/v1/files": {
            "post": {**upload, "requestBody": {"required": True, "content": form}},
            "get": _operation("Files of the key", "List", _PURPOSE, *_page(10_000)),
        },
        one: {
            "get": _operation("What is known of one", "File", _ID),
            "delete": _operation("Delete it", "Deleted", _ID),
        },
        f"{one}/content": {"get": _operation("Its bytes", None, _ID, kinds=("application/octet-stream",))},
    }


def _of_batches() -> dict[str, Any]:
    one = "/v1/batches/{id}"
    create = _operation("Have a file of requests answered, at a low priority", "Batch", body="BatchRequest")
    return {
        "/v1/batches": {"post": create, "get": _operation("Batches of the key", "List", *_page(100)[:2])},
        one: {"get": _operation("How far one is", "Batch", _ID)},
        f"{one}/cancel": {"post": _operation("End it early, and keep the answers that it has", "Batch", _ID)},
    }


def _page(most: int) -> list[dict[str, Any]]:
    """Of a list."""
    return [
        {"name": "after", "in": "query", "schema": _TEXT, "description": "The id of the last item that was seen."},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": most}},
        {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"]}},
    ]


def _operation(
    summary: str,
    answer: str | None,
    *parameters: dict[str, Any],
    body: str | None = None,
    kinds: tuple[str, ...] = ("application/json",),
) -> dict[str, Any]:
    """answer: the schema of a whole one.  body: that of the request."""
    whole = {"application/json": {} if answer is None else {"schema": _named(answer)}}
    error = {"application/json": {"schema": _named("Error")}}
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "As OpenAI has it", "content": {kind: whole.get(kind, {}) for kind in kinds}},
            "default": {"description": "What went wrong", "content": error},
        },
    }
    if _STARTING_AFTER in parameters:
        operation["responses"]["204"] = {"description": "All of it was seen"}
    if _PREFER in parameters:
        operation["responses"]["202"] = {"description": "Taken in: `Location` says where the answer is"}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _named(body)}}}
    return operation


def _named(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}
