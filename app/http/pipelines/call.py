"""Reads a request to a pipeline: which pipeline and which model it is for, and what it asks of them."""

from functools import partial
from typing import Any

from app.errors import NotFound, ValidationFailed
from app.http.api import Call, Received
from app.http.parsing import parse
from app.http.pipelines.body import Asked, Form, PipelineBody, asked_by
from app.http.pipelines.tasks import PIPELINES, Pipeline
from app.tasks import TASKS
from app.tasks.base import Model
from app.tasks.catalog import Catalog
from app.telemetry.record import RequestRecord


def read_call(
    catalog: Catalog, received: Received, form: Form, *, name: str | None = None, pipeline: str | None = None
) -> Call:
    """Read a request to a pipeline.

    Args:
        catalog: The models.
        received: The request.
        form: The form of the answer.
        name: The model; without it the body's `model`, else one that fits the inputs.
        pipeline: The pipeline, by its name in transformers; without it the one that fits the inputs.

    Raises:
        ValidationError, ValidationFailed: the body is no request for the model, or for several.
        NotFound: there is no such model or pipeline.
    """
    body = parse(PipelineBody, received.body)
    asked = asked_by(body, form)
    chosen, model = _choose(catalog, asked, body.model if name is None else name, pipeline)
    request = chosen.request.model_validate(
        {"inputs": chosen.inputs(asked), "parameters": chosen.parameters(asked, model)}
    )
    return Call(TASKS[chosen.task], model, request, partial(_write, chosen, asked))


def _write(pipeline: Pipeline, asked: Asked, predictions: list[Any], record: RequestRecord) -> object:  # noqa: ARG001
    return pipeline.write(asked, predictions)


def _choose(catalog: Catalog, asked: Asked, name: str | None, wanted: str | None) -> tuple[Pipeline, Model]:
    """Return the pipeline and the model for a request, from what it names and from the form of its inputs."""
    named = [one for one in PIPELINES if wanted is None or wanted in one.names]
    if not named:
        names = dict.fromkeys(name for one in PIPELINES for name in one.names)
        raise NotFound(f"There is no such pipeline. There are: {', '.join(names)}.")
    models = list(catalog)
    if name is None and len(models) == 1:
        name = models[0].name
    if name is not None:
        model = catalog.get(name)
        able = [one for one in named if TASKS[one.task].serves(model.manifest)]
        if not able:
            has = dict.fromkeys(one.names[0] for one in PIPELINES if TASKS[one.task].serves(model.manifest))
            others = [other.name for one in named for other in catalog.all_for(TASKS[one.task])]
            raise NotFound(
                f"That model has no {wanted} pipeline, but {', '.join(has)}. "
                f"Models with {wanted}: {', '.join(others) or 'none'}."
            )
        # What fits nothing is refused in the words of the task that the model was exported for.
        fitting = [one for one in able if one.fits(asked)] or sorted(able, key=lambda one: one.task != model.task)
        return fitting[0], model
    fitting = [one for one in named if one.fits(asked)] or ([] if wanted is None else named)
    if not fitting:
        raise ValidationFailed(
            'inputs: should be a text, {"text": ..., "text_pair": ...}, {"question": ..., "context": ...}, '
            '{"source_sentence": ..., "sentences": [...]}, {"query": ..., "texts": [...]}, or a list of these. Name the model for '
            "an error that says what it takes."
        )
    if fitting[0].is_telling:
        fitting = fitting[:1]
    handler, model = catalog.for_any([TASKS[one.task] for one in fitting])
    return next(one for one in fitting if one.task == handler.task), model
