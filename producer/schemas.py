"""Whether what a request gives as a JSON Schema is one: looked at before it is sent, where `jsonschema` is there.

It comes with the extra `jsonschema`. Without it the worker looks, and the job ends with what it finds.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from .contract import GenerationRequest, InvalidRequest
from .contract.structured import JsonSchemaFormat


def check_schema(request: GenerationRequest) -> None:
    """Raises InvalidRequest for a schema that is none, and says where."""
    for where, schema in _schemas(request):
        if fault := _fault(json.dumps(schema)):
            raise InvalidRequest(f"{where} is no JSON Schema: {fault}")


def _schemas(request: GenerationRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each with its place in the request."""
    given = request.response_format
    if isinstance(given, JsonSchemaFormat):
        yield "response_format.json_schema.schema", given.json_schema.schema_
    for place, tool in enumerate(request.tools or ()):
        # One that the model is told of, and not held to, may be in any words.
        if tool.function.parameters is not None and (request.must_call or tool.function.strict):
            yield f"tools.{place}.function.parameters", tool.function.parameters


@lru_cache(64)  # a batch has one schema and many rows
def _fault(schema: str) -> str | None:
    try:
        from jsonschema.exceptions import SchemaError  # noqa: PLC0415 - an extra
        from jsonschema.validators import Draft202012Validator, validator_for  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    parsed: Any = json.loads(schema)
    try:
        validator_for(parsed, default=Draft202012Validator).check_schema(parsed)
    except SchemaError as error:
        return f"{error.json_path}: {error.message:.200}"
    except RecursionError:
        return None  # so deep that the worker has to say what it makes of it
    return None
