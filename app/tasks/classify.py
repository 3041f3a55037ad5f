"""Classification: logits to labels with scores, as transformers' text-classification pipeline computes them."""

from collections.abc import Callable, Sequence
from math import exp
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel

from app.bundle.manifest import Manifest, Task
from app.bundle.sequences import FloatArray
from app.tasks.base import SHORT_BYTES, Prepared, prepare_whole
from app.tasks.catalog import Model
from app.tasks.requests import ClassifyRequest
from app.tasks.responses import ClassifyResponse

Function = Literal["softmax", "sigmoid", "none"]


class Classify:
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
