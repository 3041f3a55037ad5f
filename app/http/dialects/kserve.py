"""KServe's protocol, version 1: instances in, predictions out. Custom containers of Vertex AI have the same body."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from app.bundle.manifest import Task
from app.errors import NotFound
from app.http.api import Api, Call, Inference, Received, Route, Utility
from app.http.parsing import parse
from app.tasks import TASKS
from app.tasks.base import Model
from app.tasks.inputs import MAX_INPUTS
from app.telemetry.record import RequestRecord


class PredictRequest(BaseModel):
    """Instances, each of which is what the native API takes as an input. Other keys are ignored, as KServe does."""

    model_config = ConfigDict(strict=True)

    instances: list[Any] = Field(min_length=1, max_length=MAX_INPUTS, description="The inputs of the model's task.")
    parameters: dict[str, Any] | None = Field(None, description="Those of the model's task.")


class KServeApi(Api):
    """`POST /v1/models/{model}:predict`. Whether a model is ready is said by the native `GET /v1/models/{model}`."""

    name = "kserve"

    @property
    def routes(self) -> Sequence[Route]:
        path = "/v1/models/{model}"
        return [
            Utility("GET", "/", "Whether the process responds", lambda _: {"status": "alive"}, is_open=True),
            Inference(f"{path}:predict", "A prediction for each instance", self._predict, PredictRequest),
            Utility("POST", f"{path}:explain", "Always 404: this server explains no prediction", _explain),
        ]

    def _predict(self, received: Received) -> Call:
        """Read instances.

        Raises:
            NotFound: there is no such model.
            ValidationError: the body has no instances, or such as the model does not take.
        """
        request = parse(PredictRequest, received.body)
        catalog = self.served.catalog
        model = catalog.get(received.path["model"])
        parameters = request.parameters or {}
        handler = TASKS[_task(model, request.instances[0], parameters)]
        native = handler.request.model_validate({"inputs": request.instances, "parameters": parameters})
        return Call(handler, catalog.for_task(handler, model.name), native, _write)


def _task(model: Model, first: object, parameters: Collection[str]) -> Task:
    """Return what is asked of a model, by the first instance: some can do more than they were exported for."""
    if "candidate_labels" in parameters:
        return "zero-shot"
    keys = set(first) if isinstance(first, dict) else set()
    if keys & {"query", "texts"}:
        return "rerank"
    if keys & {"source_sentence", "sentences"}:
        return "similarity"
    # One that ranks texts also gives texts and pairs their score.
    return "classify" if model.task == "rerank" else model.task


def _explain(_: Received) -> object:
    raise NotFound("This server explains no prediction. Post to :predict.")


def _write(predictions: list[Any], _: RequestRecord) -> object:
    return {"predictions": predictions}


API: Final = KServeApi
