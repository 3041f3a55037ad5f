"""Classification: logits to labels with scores, as transformers' text-classification pipeline computes them."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from app.bundle import Manifest, Task
from app.catalog import Model
from app.messages import FloatArray, IntArray, TokenSequence
from app.schemas import ClassifyRequest, ClassifyResponse
from app.tasks.base import Prepared

NO_MASKS: IntArray = np.empty(0, np.int64)


class Classify:
    """`POST /v1/classify`."""

    task: ClassVar[Task] = "classify"
    summary: ClassVar[str] = "Labels and their scores for texts or pairs of texts"
    request: ClassVar[type[BaseModel]] = ClassifyRequest
    response: ClassVar[type[BaseModel]] = ClassifyResponse

    def prepare(self, model: Model, request: ClassifyRequest) -> Prepared:
        encoded = model.tokenizer.encode(
            request.listed,
            truncation=request.parameters.truncation,
            direction=request.parameters.truncation_direction,
        )
        return Prepared(
            [TokenSequence(text.input_ids, text.token_type_ids, NO_MASKS) for text in encoded],
            sum(text.was_truncated for text in encoded),
        )

    def answer(
        self,
        model: Model,
        request: ClassifyRequest,
        sequences: Sequence[TokenSequence],  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        function = request.parameters.function_to_apply or default_function(model.manifest)
        scores = apply(function, np.stack(results))
        # Stable on what is answered, so that labels of equal score keep the model's order.
        order = np.argsort(-scores, axis=1, kind="stable")[:, : request.parameters.top_k]
        labels = model.manifest.labels
        return [
            [{"label": labels[i], "score": score} for i, score in zip(best, best_scores, strict=True)]
            for best, best_scores in zip(
                order.tolist(), np.take_along_axis(scores, order, axis=1).tolist(), strict=True
            )
        ]

    def weight(self, sequences: Sequence[TokenSequence]) -> int:
        return len(sequences)


def default_function(manifest: Manifest) -> Literal["softmax", "sigmoid", "none"]:
    """Return what turns a model's logits into scores when the request does not say."""
    if manifest.problem_type == "regression":
        return "none"
    if manifest.problem_type == "multi_label_classification" or len(manifest.labels) == 1:
        return "sigmoid"
    return "softmax"


def apply(function: Literal["softmax", "sigmoid", "none"], logits: FloatArray) -> FloatArray:
    """Return scores float32[batch, labels] of logits float32[batch, labels]."""
    if function == "softmax":
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: FloatArray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return shares
    if function == "sigmoid":
        # exp(-|x|) cannot overflow; for negative x the fraction is expanded by exp(x).
        small = np.exp(-np.abs(logits))
        fractions: FloatArray = np.where(logits >= 0, np.float32(1), small) / (1 + small)
        return fractions
    return logits
