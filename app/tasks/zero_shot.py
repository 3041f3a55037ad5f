"""Zero-shot classification: labels that the request names, by a model of natural language inference.

As in transformers' zero-shot-classification pipeline, a text is the premise, and each label makes a hypothesis; a label's score
is how much the one entails the other.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from app.bundle.manifest import Manifest
from app.bundle.sequences import FloatArray
from app.tasks.base import BYTES_A_PAIR, Model, Prepared, TaskHandler, Usage, example, prepare_pairs
from app.tasks.inputs import MAX_INPUTS, Text, TextsRequest, Truncation
from app.tasks.scores import softmax

MAX_TEMPLATE: Final = 4096
"""Most characters of a template, which is repeated for each label: with one of a megabyte, 4096 labels took 4 GB."""


def _with_place(template: str) -> str:
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise PydanticCustomError("template", "should contain {} once, where the label goes, and no other braces", {})
    return template


class ZeroShotParameters(Truncation):
    """Which labels there are, and how to choose among them."""

    candidate_labels: list[Text] = Field(min_length=1, max_length=MAX_INPUTS, description="The labels to choose among.")
    hypothesis_template: Annotated[Text, AfterValidator(_with_place)] = Field(
        "This example is {}.",
        max_length=MAX_TEMPLATE,
        description="The sentence that a label makes; {} is where the label goes.",
    )
    multi_label: bool = Field(
        False,
        description="Whether several labels may be right. If false, the scores of a text add up to 1. If true, or if there "
        "is one label, each is between 0 and 1 by itself.",
    )


class ZeroShotRequest(TextsRequest):
    """Texts to classify, and labels to choose among."""

    parameters: ZeroShotParameters


class CandidateScore(BaseModel):
    """A label of the request, and its score."""

    label: str
    score: float


class ZeroShotResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, best label first."""

    model_config = example([{"label": "travel", "score": 0.9712}, {"label": "sport", "score": 0.0288}], tokens=34)

    model: str
    predictions: list[list[CandidateScore]]
    usage: Usage


class ZeroShotHandler(TaskHandler[ZeroShotRequest, Prepared, FloatArray]):
    """`POST /v1/zero-shot`."""

    task = "zero-shot"
    summary = "Labels of the request and their scores for texts"
    request = ZeroShotRequest
    response = ZeroShotResponse
    best = ("label", "score")

    def serves(self, manifest: Manifest) -> bool:
        return manifest.task == "classify" and len(manifest.labels) > 1 and len(_entailments(manifest)) == 1

    def count(self, request: ZeroShotRequest) -> int:
        return len(request.listed) * len(request.parameters.candidate_labels)

    def example(self, model: Model) -> dict[str, Any]:
        labels = ["travel", "cooking", "sport"]
        return {"model": model.name, "inputs": "The train leaves at nine.", "parameters": {"candidate_labels": labels}}

    def bytes_to_prepare(self, model: Model, request: ZeroShotRequest, body_bytes: int) -> int:  # noqa: ARG002
        parameters = request.parameters
        templates = len(parameters.candidate_labels) * len(parameters.hypothesis_template)
        return body_bytes + templates + self.count(request) * BYTES_A_PAIR

    def prepare(self, model: Model, request: ZeroShotRequest) -> Prepared:
        parameters = request.parameters
        labels = parameters.candidate_labels
        hypotheses = [parameters.hypothesis_template.replace("{}", label) for label in labels]
        # The hypothesis is what is asked: only the text is cut.
        return prepare_pairs(
            model,
            [(text, hypothesis) for text in request.listed for hypothesis in hypotheses],
            parameters,
            lambda number: f"inputs[{number // len(labels)}] with parameters.candidate_labels[{number % len(labels)}]",
            strategy="only_first",
        )

    def answer(
        self,
        model: Model,
        request: ZeroShotRequest,
        prepared: Prepared,  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        labels = request.parameters.candidate_labels
        [entailment] = _entailments(model.manifest)
        contradiction = -1 if entailment == 0 else 0
        logits = [(row[contradiction].item(), row[entailment].item()) for row in results]
        if request.parameters.multi_label or len(labels) == 1:
            scores = [softmax([against, in_favour])[1] for against, in_favour in logits]
        else:
            texts = [logits[start : start + len(labels)] for start in range(0, len(logits), len(labels))]
            scores = [score for text in texts for score in softmax([in_favour for _, in_favour in text])]
        predictions = []
        for start in range(0, len(scores), len(labels)):
            scored = zip(labels, scores[start : start + len(labels)], strict=True)
            # Python's sort is stable: labels of equal score keep the request's order.
            best = sorted(scored, key=lambda one: one[1], reverse=True)
            predictions.append([{"label": label, "score": score} for label, score in best])
        return predictions


def _entailments(manifest: Manifest) -> list[int]:
    """Return the labels that mean entailment; the pipeline takes the first, and what that is depends on the config's order."""
    if manifest.entailment is not None:
        return [manifest.entailment]
    return [i for i, label in enumerate(manifest.labels) if label.lower().startswith("entail")]


HANDLER: Final = ZeroShotHandler()
