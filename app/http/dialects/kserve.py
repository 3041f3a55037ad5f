"""KServe's protocol, version 1: instances in, predictions out. Custom containers of Vertex AI have the same body."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from app.bundle.manifest import Task
from app.http.api import Api, Call, Inference, Received, Route, Utility
from app.http.parsing import parse
from app.tasks import TASKS
from app.tasks.base import Model
from app.tasks.inputs import MAX_INPUTS


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
            Inference(f"{path}:explain", "An explanation for each instance", self._explain, PredictRequest, "explain"),
        ]

    def _predict(self, received: Received) -> Call:
        """Read instances.

        Raises:
            NotFound: there is no such model.
            ValidationError: the body has no instances, or such as the model does not take.
        """
        request = parse(PredictRequest, received.body)
        model = self.served.catalog.get(received.path["model"])
        task = _task(model, request.instances[0], request.parameters or {})
        return self._call(task, model.name, request, "predictions")

    def _explain(self, received: Received) -> Call:
        """Read instances, of the form that the native route explains. Raises what `_predict` does."""
        return self._call("explain", received.path["model"], parse(PredictRequest, received.body), "explanations")

    def _call(self, task: Task, model: str, request: PredictRequest, key: str) -> Call:
        """Return the call of a task, whose answer stands under a key."""
        handler = TASKS[task]
        native = handler.request.model_validate({"inputs": request.instances, "parameters": request.parameters or {}})
        return Call(handler, self.served.catalog.for_task(handler, model), native, lambda answer, _: {key: answer})


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


API: Final = KServeApi
