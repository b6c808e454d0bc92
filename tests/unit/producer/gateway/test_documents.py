"""The OpenAPI document and the metrics."""

from typing import Any

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from producer.gateway.openapi import document
from producer.testing import ScriptedWorker

from . import test_fields, test_responses
from .conftest import Door
from .test_response_tools import FUNCTION, THOUGHT
from .test_tools import CALL, TOOLS

SCHEMAS = document()["components"]["schemas"]
OF_VLLM_AND_OURS = {"top_k", "min_p", "repetition_penalty", "ignore_eos", "cache_salt", "min_tokens"}


async def test_every_path_is_in_the_document_and_no_other(door: Door):
    assert (await door.http.get("/openapi.json")).json() == document()
    app = door.http._transport.app
    routes = [route for route in app.routes if route.include_in_schema]  # the page's files are not
    served = {(route.path, method) for route in routes for method in route.methods - {"HEAD"}}
    documented = {(path, method.upper()) for path, item in document()["paths"].items() for method in item}
    assert documented == served


@pytest.mark.parametrize(
    ("name", "kind"), [("ChatCompletionRequest", "chat"), ("CompletionRequest", "completions")]
)
def test_the_fields_of_a_body_are_those_that_are_served(name: str, kind: str):
    hints = test_fields.BODIES[kind][1]
    served = {field for field in hints if test_fields.outcome(kind, field) == "served"}
    assert _fields(name) & hints.keys() - test_fields.WITHOUT_EFFECT.keys() == served
    assert _fields(name) - hints.keys() <= OF_VLLM_AND_OURS | {
        "store",
        "metadata",
        "service_tier",
        "response_format",
        "safety_identifier",
        "prompt_cache_key",
    }


def test_the_fields_of_a_response_are_those_that_are_served():
    served = {field for field in test_responses.HINTS if test_responses.outcome(field) == "served"}
    assert _fields("ResponseRequest") - OF_VLLM_AND_OURS == served | {
        "stop",
        "seed",
        "logit_bias",
        "presence_penalty",
        "frequency_penalty",
    }


def _fields(name: str) -> set[str]:
    return set(SCHEMAS[name]["properties"])


@pytest.mark.parametrize(
    ("name", "body", "is_valid"),
    [
        ("ChatCompletionRequest", Door.body("Hi", temperature=0.5, stop=None, stream=True, n=2), True),
        ("ChatCompletionRequest", Door.body("Hi", audio={}), False),
        ("ChatCompletionRequest", {"model": "tiny"}, False),
        ("CompletionRequest", {"model": "tiny", "prompt": [[1, 2], "a"], "logprobs": 3}, True),
        (
            "ResponseRequest",
            {"model": "tiny", "input": [{"role": "user", "content": "Hi"}], "background": True},
            True,
        ),
        ("ResponseRequest", {"model": "tiny", "input": []}, False),
    ],
)
def test_bodies_are_what_the_document_says(name: str, body: dict[str, Any], is_valid: bool):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert jsonschema.Draft202012Validator(SCHEMAS[name]).is_valid(body) == is_valid


def answered(name: str, body: Any) -> None:
    """Raises ValidationError where the document says otherwise."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    jsonschema.Draft202012Validator(schema).validate(body)


async def test_answers_are_what_the_document_says(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", THOUGHT + CALL)
    made = {"model": "tiny", "prompt": "Hi"}
    for name, path, body in (
        ("ChatCompletion", "/v1/chat/completions", Door.body("Hi", tools=TOOLS, logprobs=True)),
        ("Completion", "/v1/completions", {**made, "logprobs": 1}),
        ("Response", "/v1/responses", {"model": "tiny", "input": "Hi", "tools": [FUNCTION]}),
    ):
        made = (await door.http.post(path, json=body)).json()
        answered(name, made)
        url = f"{path}/{made['id']}"
        answered(name, (await door.http.get(url)).json())
        if name == "Response":
            answered("Items", (await door.http.get(f"{url}/input_items")).json())
        answered("Deleted", (await door.http.delete(url)).json())
        answered("Error", (await door.http.get(url)).json())
    for name, path in (
        *(("Models", "/v1/models"), ("Model", "/v1/models/tiny")),
        *(("Health", "/health"), ("Ready", "/ready"), ("Document", "/openapi.json")),
    ):
        answered(name, (await door.http.get(path)).json())


async def test_a_path_names_all_its_methods(door: Door):
    told = await door.http.put("/v1/responses/x")
    assert (told.status_code, told.json()["error"]["code"]) == (405, "method_not_allowed")
    assert told.headers["allow"] == "DELETE, GET, HEAD"


async def test_metrics_tell_what_was_asked(door: Door, worker: ScriptedWorker):
    made = (await door.chat("Hi")).json()
    for path in (f"/v1/chat/completions/{made['id']}", "/v1/chat/completions/none", "/v1/nothing", "/v1/models"):
        await door.http.get(path)
    for method, path in (("BREW", "/v1/models"), ("BREW2", "/coffee"), ("GET", "/v1/chat/completions/v1")):
        await door.http.request(method, path)  # no series of their own
    shown = await door.http.get("/metrics")
    samples = [each for family in text_string_to_metric_families(shown.text) for each in family.samples]
    requests = {
        tuple(each.labels[name] for name in ("method", "path", "status")): each.value
        for each in samples
        if each.name == "genqueue_gateway_requests_total"
    }
    assert requests == {
        ("POST", "/v1/chat/completions", "200"): 1,
        ("GET", "/v1/chat/completions/{id}", "200"): 1,
        ("GET", "/v1/chat/completions/{id}", "404"): 2,
        ("GET", "other", "404"): 1,
        ("other", "/v1/models", "405"): 1,
        ("other", "other", "404"): 1,
        ("GET", "/v1/models", "200"): 1,
    }
    values = {each.name: each.value for each in samples if not each.labels}
    assert values["genqueue_gateway_open_requests"] == 1  # this one
    assert values["genqueue_gateway_waiting_jobs"] == 0
    assert values["genqueue_gateway_sent_bytes_total"] > 100
