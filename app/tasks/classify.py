"""Classification: logits to labels with scores, as transformers' text-classification pipeline computes them."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from app.bundle.manifest import Manifest
from app.bundle.sequences import FloatArray
from app.tasks.base import Model, Prepared, TaskHandler, Usage, prepare_whole
from app.tasks.inputs import MAX_TOP_K, ModelName, PairInputs, Request, TextPair, Truncation, as_list
from app.tasks.scores import FUNCTIONS, Function
from app.work import go_on

LABELS_A_WEIGHT: Final = 4
"""Labels that are scored and written in one unit of `weight`."""


class ClassifyParameters(Truncation):
    """How to classify."""

    top_k: int | None = Field(None, ge=1, le=MAX_TOP_K, description="Return only the best labels; default: all.")
    function_to_apply: Function | None = Field(
        None,
        description="Turns logits into scores. Default: none for regression, sigmoid for multi-label models and models "
        "with one label, else softmax.",
    )


class ClassifyRequest(Request):
    """Texts, or pairs of texts, to classify."""

    model: ModelName = None
    inputs: PairInputs
    parameters: ClassifyParameters = ClassifyParameters()

    @property
    def listed(self) -> list[str | tuple[str, str]]:
        """The inputs as a list, pairs as tuples. An empty second text counts as none."""
        inputs: list[str | TextPair] = as_list(self.inputs)
        return [
            item if isinstance(item, str) else (item.text, item.text_pair) if item.text_pair else item.text
            for item in inputs
        ]


class LabelScore(BaseModel):
    """A label and its score."""

    label: str
    score: float


class ClassifyResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, best label first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "sentiment",
                    "predictions": [[{"label": "POSITIVE", "score": 0.9994}, {"label": "NEGATIVE", "score": 0.0006}]],
                    "usage": {"tokens": 6, "truncated": 0},
                }
            ]
        }
    )

    model: str
    predictions: list[list[LabelScore]]
    usage: Usage


class ClassifyHandler(TaskHandler[ClassifyRequest, Prepared, FloatArray]):
    """`POST /v1/classify`."""

    task = "classify"
    summary = "Labels and their scores for texts or pairs of texts"
    request = ClassifyRequest
    response = ClassifyResponse
    best = ("label", "score")

    def serves(self, manifest: Manifest) -> bool:
        return manifest.task in ("classify", "rerank")

    def inputs_of(self, text: str, text_pair: str | None) -> Any:  # noqa: ANN401 - JSON
        return {"text": text, "text_pair": text_pair}

    def example(self, model: Model) -> dict[str, Any]:
        return {"model": model.name, "inputs": "I love this product"}

    def prepare(self, model: Model, request: ClassifyRequest) -> Prepared:
        return prepare_whole(model, request.listed, request.parameters)

    def answer(
        self,
        model: Model,
        request: ClassifyRequest,
        prepared: Prepared,  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        function = FUNCTIONS[request.parameters.function_to_apply or default_function(model.manifest)]
        top_k = request.parameters.top_k
        labels = model.manifest.labels
        predictions = []
        for logits in results:
            go_on()
            scored = zip(labels, function(logits.tolist()), strict=True)
            # Python's sort is stable: labels of equal score keep the model's order.
            best = sorted(scored, key=_score, reverse=True)[:top_k]
            predictions.append([{"label": label, "score": score} for label, score in best])
        return predictions

    def weight(self, model: Model, request: ClassifyRequest, prepared: Prepared) -> int:  # noqa: ARG002
        return len(prepared.sequences) * (1 + len(model.manifest.labels) // LABELS_A_WEIGHT)


def default_function(manifest: Manifest) -> Function:
    """Return the default function from a model's logits to scores."""
    if manifest.problem_type == "regression":
        return "none"
    if manifest.problem_type == "multi_label_classification" or len(manifest.labels) == 1:
        return "sigmoid"
    return "softmax"


def _score(scored: tuple[str, float]) -> float:
    return scored[1]


HANDLER: Final = ClassifyHandler()
