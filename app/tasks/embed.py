"""Embeddings: one vector per text, as in sentence-transformers. Pooling is part of the graph."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, Field

from app.bundle.sequences import FloatArray
from app.tasks.base import Model, Prepared, TaskHandler, Usage, example, prepare_whole
from app.tasks.inputs import TextsRequest, Truncation

SHORTEST: Final = 1e-12
"""Smallest norm that a vector is divided by, as in torch's `normalize`."""
NUMBERS_A_WEIGHT: Final = 64
"""Numbers that are written in one unit of `weight`."""


class EmbedParameters(Truncation):
    """How to embed."""

    normalize: bool | None = Field(
        None,
        description="Scale every embedding to unit length (L2). Default: what the model's sentence-transformers files say, "
        "otherwise false.",
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the bytes of little-endian float32 numbers, a quarter of the size."
    )


class EmbedRequest(TextsRequest):
    """Texts to embed."""

    parameters: EmbedParameters = EmbedParameters()


class EmbedResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`: numbers, or text if base64 was requested."""

    model_config = example([0.0713, -0.0265, 0.0498], tokens=6)

    model: str
    predictions: list[list[float] | str]
    usage: Usage


class EmbedHandler(TaskHandler[EmbedRequest, Prepared, FloatArray]):
    """`POST /v1/embed`."""

    task = "embed"
    summary = "An embedding for each text"
    request = EmbedRequest
    response = EmbedResponse

    def example(self, model: Model) -> dict[str, Any]:
        return {"model": model.name, "inputs": ["How do I get to the station?", "The trains leave from there."]}

    def prepare(self, model: Model, request: EmbedRequest) -> Prepared:
        texts = request.listed
        if model.manifest.strips_whitespace:
            texts = [text.strip() for text in texts]
        return prepare_whole(model, texts, request.parameters)

    def answer(
        self,
        model: Model,
        request: EmbedRequest,
        prepared: Prepared,  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        normalizes = request.parameters.normalize
        if normalizes is None:
            normalizes = bool(model.manifest.normalizes)
        embeddings = np.stack(results)
        if normalizes:
            lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(lengths, SHORTEST)
        if request.parameters.encoding_format == "base64":
            return [b64encode(row.astype("<f4").tobytes()).decode() for row in embeddings]
        return [row.tolist() for row in embeddings]

    def weight(self, model: Model, request: EmbedRequest, prepared: Prepared) -> int:  # noqa: ARG002
        return len(prepared.sequences) * model.manifest.architecture.hidden_size // NUMBERS_A_WEIGHT


HANDLER: Final = EmbedHandler()
