"""`GET /v1/models`: the models of this server."""

from pathlib import PurePath
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from app.bundle.manifest import Source
from app.engine.messages import Faster, Loaded
from app.errors import NotFound, NotReady, Unauthorized
from app.http.api import Served
from app.http.asgi import CALLER, TOLD_AS, authorize, error_responses
from app.tasks import TASKS, tasks_of
from app.tasks.base import Model


class ModelCard(BaseModel):
    """A served model. `variant` and `provider` say how it runs; they are null until it is ready.

    `instruction_sets` are those of the CPU, and `faster` the variants that are faster there: `setting` has one served, after `command`
    where that is not null; `price` says what it does to answers. Both are empty where the model runs on no CPU.
    `hash` tells its bundle from every other; `version` is that by which `fill_models` put it there.
    `tasks` are all that it does, first the one that it was exported for.
    `id`, `object`, `created` (seconds since 1970) and `owned_by` are for OpenAI's clients.
    """

    name: str
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["local"] = "local"
    ready: bool
    hash: str
    version: str | None
    task: str
    tasks: list[str]
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
    instruction_sets: list[str]
    faster: list[Faster]
    architecture: dict[str, Any]
    source: dict[str, Any]


class ModelList(BaseModel):
    """Every model of this server, in `data` once more for OpenAI's clients."""

    models: list[ModelCard]
    object: Literal["list"] = "list"
    data: list[ModelCard]


def make_models_router(
    api: str,
    served: Served,
) -> APIRouter:
    """Return the routes, which are told of as those of an API."""

    def authorized(request: Request) -> None:
        request.scope[TOLD_AS] = api
        caller = authorize(request.scope, served.limits.keys)
        if caller is not None:
            request.scope[CALLER] = caller.name

    def card(model: Model) -> ModelCard:
        return _card(model, served.loaded_as(model.name))

    router = APIRouter(
        prefix="/v1/models",
        tags=["models"],
        dependencies=[Depends(authorized)],
        responses=error_responses(Unauthorized, NotReady),
    )

    @router.get("", summary="Every model of this server")
    async def models() -> ModelList:
        cards = [card(model) for model in served.catalog]
        if not cards:
            served.readiness.check_engine()  # while the engine starts, a front end beside it does not know yet
        return ModelList(models=cards, data=cards)

    @router.get(
        "/{name}",
        summary="One model",
        responses=error_responses(NotFound),
    )
    async def model(name: str) -> ModelCard:
        return card(served.catalog.get(name))

    return router


def _card(model: Model, loaded: Loaded | None) -> ModelCard:
    manifest = model.manifest
    mask = manifest.special_tokens.mask
    return ModelCard(
        name=model.name,
        id=model.name,
        created=model.written_at,
        ready=loaded is not None,
        hash=model.hash,
        version=None if loaded is None else loaded.version,
        task=model.task,
        tasks=tasks_of(manifest),
        labels=list(manifest.labels),
        problem_type=manifest.problem_type,
        max_length=manifest.max_length,
        mask_token=mask.text if mask is not None and TASKS[model.task].takes_masks else None,
        pooling=manifest.pooling,
        dimensions=manifest.dimensions if manifest.pooling else None,
        normalizes=manifest.normalizes,
        prompts=list(manifest.prompts or ()),
        default_prompt_name=manifest.default_prompt_name,
        variant=None if loaded is None else loaded.variant,
        provider=None if loaded is None else loaded.provider,
        instruction_sets=[] if loaded is None else list(loaded.instruction_sets),
        faster=[] if loaded is None else [*loaded.faster],
        architecture=manifest.architecture.model_dump(),
        source=public_source(manifest.source).model_dump(),
    )


def public_source(source: Source) -> Source:
    """Leave out where a folder was on the machine that exported it. Only a checkpoint of the hub has a revision."""
    if source.revision is not None:
        return source
    return source.model_copy(update={"checkpoint": PurePath(source.checkpoint).name or source.checkpoint})
