"""Whether what a request gives as a JSON Schema is one: looked at before it is sent, where `jsonschema` is there.

It comes with the extra `jsonschema`. Without it the worker looks, and the job ends with what it finds.
"""

import json
from functools import lru_cache
from typing import Any

from .contract import GenerationRequest, InvalidRequest
from .contract.structured import JsonSchemaFormat


def check_schema(request: GenerationRequest) -> None:
    """Raises InvalidRequest for a schema that is none, and says where."""
    given = request.response_format
    if isinstance(given, JsonSchemaFormat) and (fault := _fault(json.dumps(given.json_schema.schema_))):
        raise InvalidRequest(f"response_format.json_schema.schema is no JSON Schema: {fault}")


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
