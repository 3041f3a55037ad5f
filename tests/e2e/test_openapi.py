"""What /openapi.json says of the API is so."""

import json
import re
from typing import Any

import jsonschema
import pytest

from app import errors
from app.http.asgi import ErrorResponse
from app.tasks import TASKS
from app.tasks.classify import ClassifyResponse
from tests.dialects import routes_by_dialect
from tests.support import Reply, ServerProcess

TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def description(shared_server: ServerProcess) -> Any:
    return shared_server.ask("GET", "/openapi.json").json


def operations(description: Any) -> list[tuple[str, str, Any]]:
    return [(path, method, one) for path, methods in description["paths"].items() for method, one in methods.items()]


def resolve(description: Any, schema: Any) -> dict[str, Any]:
    """A schema with the components that it refers to."""
    text = json.dumps(schema | {"$defs": description["components"]["schemas"]})
    return json.loads(text.replace("#/components/schemas/", "#/$defs/"))


def test_openapi_references_resolve(description: Any) -> None:
    assert description["openapi"].startswith("3.1")
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(description)))
    assert names == set(description["components"]["schemas"])
    for schema in description["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(resolve(description, schema))
    ids = [one["operationId"] for _, _, one in operations(description)]
    assert len(ids) == len(set(ids))


def test_openapi_has_every_route(description: Any) -> None:
    assert {(path, method) for path, method, _ in operations(description)} == {
        *((f"/v1/{task}", "post") for task in TASKS),
        ("/v1/models", "get"), ("/v1/models/{name}", "get"), ("/livez", "get"), ("/readyz", "get"), ("/health", "get"),
        *((route.path, route.method.lower()) for routes in routes_by_dialect().values() for route in routes),
    }  # fmt: skip


def test_openapi_has_one_schema_for_errors(description: Any) -> None:
    catalogue = {error.status for error in errors.ERRORS} - {errors.MethodNotAllowed.status, errors.BadBundle.status}
    dialects = {route.path for routes in routes_by_dialect().values() for route in routes} - {"/v1/rerank"}
    for path, method, one in operations(description):
        if path in dialects:  # each has a form of its own
            continue
        described = {int(status) for status in one["responses"]} - {200}
        if method == "post":
            assert described == catalogue
        for status in described:
            response = one["responses"][str(status)]
            assert response["description"]
            assert response["content"]["application/json"]["schema"] == {
                "$ref": "#/components/schemas/ErrorResponse"
            }, path


def test_openapi_lists_every_error_type(description: Any) -> None:
    described = description["components"]["schemas"]["ErrorResponse"]["properties"]["error_type"]["enum"]
    assert described == [error.error_type for error in errors.ERRORS]


def answer_of(description: Any, path: str, method: str, status: int) -> dict[str, Any]:
    schema = description["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]
    return resolve(description, schema)


@pytest.mark.parametrize(("path", "count"), [("/v1/classify", 2), ("/v1/fill-mask", 1)])
def test_every_request_example_works(shared_server: ServerProcess, description: Any, path: str, count: int) -> None:
    content = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    request = resolve(description, content["schema"])
    assert len(content["examples"]) == count
    for name, example in content["examples"].items():
        jsonschema.validate(example["value"], request)
        reply = shared_server.post(path, example["value"])
        assert reply.status == 200
        assert reply.json["model"] == name
        jsonschema.validate(reply.json, answer_of(description, path, "post", 200))


def test_responses_match_their_schemas(shared_server: ServerProcess, description: Any) -> None:
    def check(reply: Reply, path: str, method: str = "get") -> None:
        jsonschema.validate(reply.json, answer_of(description, path, method, reply.status))

    check(shared_server.ask("GET", "/v1/models"), "/v1/models")
    check(shared_server.ask("GET", "/v1/models/masked"), "/v1/models/{name}")
    check(shared_server.ask("GET", "/v1/models/nobody"), "/v1/models/{name}")
    check(shared_server.ask("GET", "/livez"), "/livez")
    check(shared_server.ask("GET", "/readyz"), "/readyz")
    check(shared_server.ask("GET", "/health"), "/health")
    check(shared_server.post("/v1/classify", b""), "/v1/classify", "post")
    check(shared_server.post("/v1/fill-mask", {"inputs": TEXT}), "/v1/fill-mask", "post")


def test_every_response_example_is_valid() -> None:
    examples: Any = ClassifyResponse.model_config["json_schema_extra"]
    for example in examples["examples"]:
        ClassifyResponse.model_validate(example)


def test_each_status_has_examples_of_its_own_errors(description: Any) -> None:
    dialects = {route.path for routes in routes_by_dialect().values() for route in routes}
    statuses = {error.error_type: str(error.status) for error in errors.ERRORS}
    for path, _, one in operations(description):
        for status, response in one["responses"].items():
            if status != "200" and path not in dialects:
                shown = response["content"]["application/json"]["examples"]
                assert shown
                for name, example in shown.items():
                    assert statuses[name] == status
                    assert ErrorResponse.model_validate(example["value"]).error_type == name


def test_openapi_begins_with_the_tasks_that_are_served(description: Any) -> None:
    paths = list(description["paths"])
    assert paths[:3] == ["/v1/classify", "/v1/explain", "/v1/fill-mask"]
    assert set(paths[: len(TASKS)]) == {f"/v1/{task}" for task in TASKS}
