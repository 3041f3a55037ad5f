"""Describe the endpoints of the APIs, which FastAPI does not route, in its OpenAPI document."""

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.errors import ERRORS, MethodNotAllowed
from app.http.api import Api, Inference, Route
from app.http.asgi import ErrorResponse, error_responses
from app.tasks import TASKS
from app.tasks.base import TaskHandler
from app.tasks.catalog import Catalog

Schemas = dict[type[BaseModel], dict[str, Any]]
"""The schema that refers to each form of a request or response."""

_ERRORS: Final = [error for error in ERRORS if error is not MethodNotAllowed]
"""Callers of the documented method do not get 405."""


def describe(document: dict[str, Any], apis: Sequence[Api], catalog: Catalog, *, asks_for_key: bool) -> dict[str, Any]:
    """Add every route of the APIs, and the key if one is needed, to an OpenAPI document, once, and return it."""
    if any(f"/v1/{task}" in document["paths"] for task in TASKS):
        return document
    needs_key: dict[str, Any] = {"security": [{"key": []}]} if asks_for_key else {}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            operation.update(needs_key if path.startswith("/v1/") else {})
    routes = [(api, route) for api in apis for route in api.routes]
    refs = _add_schemas(document, [route for _, route in routes])
    native = {f"/v1/{task}": _of_task(handler, catalog, refs) for task, handler in TASKS.items()}
    for api, route in routes:
        operation = native.get(route.path) or _of_dialect(api, route, refs)
        if route.path in native and route.summary != operation["summary"]:  # a dialect takes its own form there, too
            operation["description"] += f" {route.summary}."
        document["paths"].setdefault(route.path, {})[route.method.lower()] = operation
        if isinstance(route, Inference) or not route.is_open:
            operation.update(needs_key)
    served = {f"/v1/{task}" for task, handler in TASKS.items() if catalog.all_for(handler)}
    document["paths"] = dict(
        sorted(document["paths"].items(), key=lambda item: (item[0] not in served, item[0] not in native, item[0]))
    )
    if asks_for_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _add_schemas(document: dict[str, Any], routes: Sequence[Route]) -> Schemas:
    """Add the forms of requests and responses, and return the schemas that refer to them."""
    forms = [form for handler in TASKS.values() for form in (handler.request, handler.response)]
    forms += [route.request for route in routes if isinstance(route, Inference) and route.request]
    asked: list[tuple[type[BaseModel], JsonSchemaMode]] = [(form, "validation") for form in dict.fromkeys(forms)]
    asked.append((ErrorResponse, "serialization"))
    refs, definitions = models_json_schema(asked, ref_template="#/components/schemas/{model}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    # FastAPI describes an error of its own for every parameter; none of ours can be wrong in that way.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return {form: refs[form, mode] for form, mode in asked}


def _of_task(handler: TaskHandler[Any, Any, Any], catalog: Catalog, refs: Schemas) -> dict[str, Any]:
    able = catalog.all_for(handler)
    served = ", ".join(model.name for model in able) or "none here"
    examples = {model.name: {"value": handler.example(model)} for model in able}
    return {
        "tags": ["inference"],
        "summary": handler.summary,
        "description": f"{(handler.response.__doc__ or '').strip()} Models: {served}.",
        "operationId": handler.task.replace("-", "_"),
        "requestBody": {"required": True, "content": _json(refs[handler.request], examples=examples)},
        "responses": {
            "200": {"description": "The predictions.", "content": _json(refs[handler.response])},
            **_errors(refs[ErrorResponse]),
        },
    }


def _of_dialect(api: Api, route: Route, refs: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [api.name],
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{api.name} {route.method} {route.path}").strip("_"),
        "responses": {"200": {"description": "The answer."}},
    }
    variables = re.findall(r"\{(\w+)\}", route.path)
    if variables:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in variables
        ]
    if isinstance(route, Inference):
        if route.request is not None:
            described["requestBody"] = {"required": True, "content": _json(refs[route.request])}
        described["responses"] |= {status: {"description": text["description"]} for status, text in _errors({}).items()}
    return described


def _errors(schema: dict[str, Any]) -> dict[str, Any]:
    described = error_responses(*_ERRORS)
    for one in described.values():
        del one["model"]  # which is for FastAPI
        one["content"]["application/json"]["schema"] = schema
    return {str(status): one for status, one in described.items()}


def _json(schema: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"application/json": {"schema": schema, **more}}
