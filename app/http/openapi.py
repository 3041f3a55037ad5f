"""Describe the inference endpoints, which FastAPI does not route, in its OpenAPI document."""

from typing import Any, Final

from pydantic.json_schema import models_json_schema

from app.errors import ERRORS, EngineLost, MethodNotAllowed
from app.http.asgi import ErrorResponse
from app.tasks import TASKS
from app.tasks.catalog import Catalog

# Callers of the documented method do not get 405, and 503 is described by its other error.
_ERRORS: Final = [error for error in ERRORS if error not in (MethodNotAllowed, EngineLost)]


def describe(document: dict[str, Any], catalog: Catalog, *, asks_for_key: bool) -> dict[str, Any]:
    """Add a path for every task, and the key if one is needed, to an OpenAPI document, once, and return it."""
    if any(f"/v1/{task}" in document["paths"] for task in TASKS):
        return document
    models = [model for handler in TASKS.values() for model in (handler.request, handler.response)]
    refs, definitions = models_json_schema(
        [*((model, "validation") for model in models), (ErrorResponse, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    # FastAPI describes an error of its own for every parameter; none of ours can be wrong in that way.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for task, handler in TASKS.items():
        able = catalog.all_for(handler)
        served = ", ".join(model.name for model in able) or "none here"
        examples = {model.name: {"value": handler.example(model)} for model in able}
        document["paths"][f"/v1/{task}"] = {
            "post": {
                "tags": ["inference"],
                "summary": handler.summary,
                "description": f"{(handler.response.__doc__ or '').strip()} Models: {served}.",
                "operationId": task.replace("-", "_"),
                "requestBody": {
                    "required": True,
                    "content": _json(refs[handler.request, "validation"], examples=examples),
                },
                "responses": {
                    "200": {"description": "The predictions.", "content": _json(refs[handler.response, "validation"])},
                    **{
                        str(error.status): {
                            "description": (error.__doc__ or "").strip(),
                            "content": _json(refs[ErrorResponse, "serialization"]),
                        }
                        for error in _ERRORS
                    },
                },
            }
        }
    document["paths"] = dict(sorted(document["paths"].items()))
    if asks_for_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
    return document


def _json(schema: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"application/json": {"schema": schema, **more}}
