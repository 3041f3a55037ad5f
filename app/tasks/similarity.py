"""Similarity: how near one text is to others, by the cosines of their embeddings."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from app.bundle.manifest import Manifest
from app.bundle.sequences import FloatArray
from app.tasks.base import Model, Prepared, TaskHandler, Usage, example
from app.tasks.embed import normalized
from app.tasks.inputs import ModelName, Request, SentencesToCompare, SimilarityInputs, as_list
from app.tasks.prompts import PromptParameters, prepare_texts, prompt_of


class SimilarityParameters(PromptParameters):
    """How to embed the texts; a prompt is put before all of them."""


class SimilarityRequest(Request):
    """Texts, each with others to compare it with."""

    model: ModelName = None
    inputs: SimilarityInputs
    parameters: SimilarityParameters = SimilarityParameters()

    @property
    def listed(self) -> list[SentencesToCompare]:
        """The inputs as a list."""
        return as_list(self.inputs)


class SimilarityResponse(BaseModel):
    """`predictions[i][j]` is the cosine similarity of `inputs[i].source_sentence` and `inputs[i].sentences[j]`."""

    model_config = example([0.8127, 0.1034], tokens=24)

    model: str
    predictions: list[list[float]]
    usage: Usage


class SimilarityHandler(TaskHandler[SimilarityRequest, Prepared, FloatArray]):
    """`POST /v1/similarity`."""

    task = "similarity"
    summary = "How similar a text is to others"
    request = SimilarityRequest
    response = SimilarityResponse

    def serves(self, manifest: Manifest) -> bool:
        return manifest.task == "embed"

    def count(self, request: SimilarityRequest) -> int:
        return sum(1 + len(one.sentences) for one in request.listed)

    def example(self, model: Model) -> dict[str, Any]:
        sentences = ["Where do the trains leave?", "I had soup for lunch."]
        return {
            "model": model.name,
            "inputs": {"source_sentence": "How do I get to the station?", "sentences": sentences},
        }

    def bytes_to_prepare(self, model: Model, request: SimilarityRequest, body_bytes: int) -> int:
        return body_bytes + self.count(request) * len(prompt_of(model.manifest, request.parameters))

    def prepare(self, model: Model, request: SimilarityRequest) -> Prepared:
        texts, places = [], []
        for i, one in enumerate(request.listed):
            texts += [one.source_sentence, *one.sentences]
            places += [
                f"inputs[{i}].source_sentence",
                *(f"inputs[{i}].sentences[{j}]" for j in range(len(one.sentences))),
            ]
        return prepare_texts(model, texts, request.parameters, places.__getitem__)

    def answer(
        self,
        model: Model,
        request: SimilarityRequest,
        prepared: Prepared,  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        vectors = np.stack(results)[:, : model.manifest.default_dimensions]
        directions = normalized(vectors.astype(np.float64))
        predictions, start = [], 0
        for one in request.listed:
            stop = start + 1 + len(one.sentences)
            # Not a product of matrices, whose sums depend on how many sentences there are.
            predictions.append((directions[start + 1 : stop] * directions[start]).sum(axis=1).tolist())
            start = stop
        return predictions


HANDLER: Final = SimilarityHandler()
