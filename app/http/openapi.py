"""Describe the endpoints of the APIs, which FastAPI does not route, in its OpenAPI document."""

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.engine.messages import ModelState
from app.errors import (
    ERRORS,
    BadBundle,
    EngineLost,
    Internal,
    MethodNotAllowed,
    NoRoom,
    NotFound,
    NotReady,
    ServiceError,
    Unauthorized,
)
from app.http.api import Api, Inference, Route
from app.http.asgi import ErrorResponse, error_responses
from app.tasks import TASKS
from app.tasks.base import TaskHandler
from app.tasks.catalog import Catalog

Schemas = dict[type[BaseModel], dict[str, Any]]
"""The schema that refers to each form of a request or response."""

_ERRORS: Final = [error for error in ERRORS if error not in (MethodNotAllowed, BadBundle, NoRoom)]
"""Callers of the documented method do not get 405, and what is said of bundles is for operators."""


class DescribedRoute(Protocol):
    """What all routes have."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def summary(self) -> str: ...


def describe(
    document: dict[str, Any],
    apis: Sequence[Api],
    catalog: Catalog,
    *,
    asks_for_key: bool,
    for_operators: Sequence[DescribedRoute] = (),
) -> dict[str, Any]:
    """Add every route of the APIs and for operators, and the keys that are needed, to an OpenAPI document, once, and return it."""
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
    schemes = {"key": {"type": "http", "scheme": "bearer"}} if asks_for_key else {}
    if for_operators:
        schemes["admin key"] = {"type": "http", "scheme": "bearer"}
        _add_operators(document, for_operators, refs[ErrorResponse])
    if schemes:
        document["components"]["securitySchemes"] = schemes
    return document


def _add_operators(document: dict[str, Any], routes: Sequence[DescribedRoute], error: dict[str, Any]) -> None:
    document["components"]["schemas"]["ModelState"] = TypeAdapter(ModelState).json_schema(mode="serialization")
    state = {"$ref": "#/components/schemas/ModelState"}
    for route in routes:
        changes = "{name}" in route.path
        states = {"type": "object", "properties": {"models": {"type": "array", "items": state}}, "required": ["models"]}
        faults = (Unauthorized, *((NotFound, BadBundle, NoRoom) if changes else ()), Internal, NotReady, EngineLost)
        operation: dict[str, Any] = {
            "tags": ["admin"],
            "summary": route.summary,
            "operationId": _id_of("admin", route),
            "responses": {
                "200": {"description": "It is done.", "content": _json(state if changes else states)},
                **_errors(error, faults),
            },
            "security": [{"admin key": []}],
        }
        if changes:
            operation["parameters"] = _parameters(route)
        document["paths"].setdefault(route.path, {})[route.method.lower()] = operation


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
        "operationId": _id_of(api.name, route),
        "responses": {"200": {"description": "The answer."}},
    }
    if parameters := _parameters(route):
        described["parameters"] = parameters
    if isinstance(route, Inference):
        if route.request is not None:
            described["requestBody"] = {"required": True, "content": _json(refs[route.request])}
        described["responses"] |= {status: {"description": text["description"]} for status, text in _errors({}).items()}
    return described


def _id_of(api: str, route: DescribedRoute) -> str:
    return re.sub(r"\W+", "_", f"{api} {route.method} {route.path}").strip("_")


def _parameters(route: DescribedRoute) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _errors(schema: dict[str, Any], errors: Sequence[type[ServiceError]] = _ERRORS) -> dict[str, Any]:
    described = error_responses(*errors)
    for one in described.values():
        del one["model"]  # which is for FastAPI
        one["content"]["application/json"]["schema"] = schema
    return {str(status): one for status, one in described.items()}


def _json(schema: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"application/json": {"schema": schema, **more}}
