"""Classification: logits to labels with scores, as transformers' text-classification pipeline computes them."""

from collections.abc import Callable, Sequence
from math import exp
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.bundle.manifest import Manifest, Task
from app.bundle.sequences import FloatArray
from app.tasks.base import SHORT_BYTES, Model, Prepared, TaskHandler, Usage, prepare_whole
from app.tasks.inputs import (
    MAX_TOP_K,
    ModelName,
    PairInputs,
    Request,
    TextPair,
    Truncation,
    as_list,
)

Function = Literal["softmax", "sigmoid", "none"]


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


class ClassifyHandler:
    """`POST /v1/classify`."""

    task: ClassVar[Task] = "classify"
    summary: ClassVar[str] = "Labels and their scores for texts or pairs of texts"
    request: ClassVar[type[BaseModel]] = ClassifyRequest
    response: ClassVar[type[BaseModel]] = ClassifyResponse
    short_bytes: ClassVar[int] = SHORT_BYTES

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
            scored = zip(labels, function(logits.tolist()), strict=True)
            # Python's sort is stable: labels of equal score keep the model's order.
            best = sorted(scored, key=_score, reverse=True)[:top_k]
            predictions.append([{"label": label, "score": score} for label, score in best])
        return predictions

    def weight(self, model: Model, request: ClassifyRequest, prepared: Prepared) -> int:  # noqa: ARG002
        return len(prepared.sequences)


def default_function(manifest: Manifest) -> Function:
    """Return the default function from a model's logits to scores."""
    if manifest.problem_type == "regression":
        return "none"
    if manifest.problem_type == "multi_label_classification" or len(manifest.labels) == 1:
        return "sigmoid"
    return "softmax"


def softmax(logits: list[float]) -> list[float]:
    """Return exp(x) / sum(exp(x)); the largest logit is subtracted first to prevent overflow."""
    largest = max(logits)
    exponentials = [exp(logit - largest) for logit in logits]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def sigmoid(logits: list[float]) -> list[float]:
    """Return 1 / (1 + exp(-x)), expanded by exp(x) for negative x, where exp(-x) might overflow."""
    return [1 / (1 + exp(-logit)) if logit >= 0 else exp(logit) / (1 + exp(logit)) for logit in logits]


def identity(logits: list[float]) -> list[float]:
    """Return the logits as they are."""
    return logits


# Plain Python in double precision: for a few labels several times as fast as NumPy.
FUNCTIONS: Final[dict[Function, Callable[[list[float]], list[float]]]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": identity,
}


def _score(scored: tuple[str, float]) -> float:
    return scored[1]


HANDLER: Final[TaskHandler[ClassifyRequest, Prepared, FloatArray]] = ClassifyHandler()
