"""`GET /v1/models`: the models of this server."""

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from app.bundle.manifest import Source
from app.engine.messages import Loaded
from app.http.asgi import ErrorResponse, authorize
from app.tasks.base import Model
from app.tasks.catalog import Catalog


class ModelCard(BaseModel):
    """A served model. `variant` and `provider` say how it runs; they are null until it is ready."""

    name: str
    ready: bool
    task: str
    labels: list[str]
    problem_type: str | None
    max_length: int
    mask_token: str | None
    pooling: str | None
    dimensions: int | None
    normalizes: bool | None
    prompts: list[str]
    default_prompt_name: str | None
    variant: str | None
    provider: str | None
    architecture: dict[str, Any]
    source: dict[str, Any]


class ModelList(BaseModel):
    """Every model of this server."""

    models: list[ModelCard]


def make_models_router(catalog: Catalog, loaded_as: Callable[[str], Loaded | None], api_key: str | None) -> APIRouter:
    """Return the routes. `loaded_as` returns how the engine has loaded a model, or None while it has not."""

    def authorized(request: Request) -> None:
        authorize(request.scope, api_key)

    router = APIRouter(
        prefix="/v1/models",
        tags=["models"],
        dependencies=[Depends(authorized)],
        responses={401: {"model": ErrorResponse, "description": "The API key is missing or wrong."}},
    )

    @router.get("", summary="Every model of this server")
    async def models() -> ModelList:
        return ModelList(models=[_card(model, loaded_as(model.name)) for model in catalog])

    @router.get(
        "/{name}",
        summary="One model",
        responses={404: {"model": ErrorResponse, "description": "No such model."}},
    )
    async def model(name: str) -> ModelCard:
        return _card(catalog.get(name), loaded_as(name))

    return router


def _card(model: Model, loaded: Loaded | None) -> ModelCard:
    manifest = model.manifest
    mask = manifest.special_tokens.mask
    return ModelCard(
        name=model.name,
        ready=loaded is not None,
        task=model.task,
        labels=list(manifest.labels),
        problem_type=manifest.problem_type,
        max_length=manifest.max_length,
        mask_token=mask.text if mask is not None and model.task == "fill-mask" else None,
        pooling=manifest.pooling,
        dimensions=manifest.dimensions if manifest.pooling else None,
        normalizes=manifest.normalizes,
        prompts=list(manifest.prompts or ()),
        default_prompt_name=manifest.default_prompt_name,
        variant=None if loaded is None else loaded.variant,
        provider=None if loaded is None else loaded.provider,
        architecture=manifest.architecture.model_dump(),
        source=_public(manifest.source).model_dump(),
    )


def _public(source: Source) -> Source:
    """Leave out where a folder was on the machine that exported it. Only a checkpoint of the hub has a revision."""
    if source.revision is not None:
        return source
    return source.model_copy(update={"checkpoint": PurePath(source.checkpoint).name or source.checkpoint})
