"""Embeddings: one vector per text, as in sentence-transformers. Pooling is part of the graph."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, Field

from app.bundle.sequences import FloatArray
from app.errors import ValidationFailed
from app.tasks.base import Model, Prepared, TaskHandler, Usage, example
from app.tasks.inputs import TextsRequest
from app.tasks.prompts import PromptParameters, prepare_texts, prompt_of

SHORTEST: Final = 1e-12
"""Smallest norm that a vector is divided by, as in torch's `normalize`."""
NUMBERS_A_WEIGHT: Final = 64
"""Numbers that are written in one unit of `weight`."""


class EmbedParameters(PromptParameters):
    """How to embed."""

    dimensions: int | None = Field(
        None,
        ge=1,
        description="Return only the first numbers of every embedding, this many; they are scaled to unit length after that, "
        "if they are at all. For models that were trained for it (Matryoshka).",
    )
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
    golden = "embedding"

    def example(self, model: Model) -> dict[str, Any]:
        return {"model": model.name, "inputs": ["How do I get to the station?", "The trains leave from there."]}

    def bytes_to_prepare(self, model: Model, request: EmbedRequest, body_bytes: int) -> int:
        return body_bytes + self.count(request) * len(prompt_of(model.manifest, request.parameters))

    def prepare(self, model: Model, request: EmbedRequest) -> Prepared:
        size = model.manifest.dimensions
        if (request.parameters.dimensions or 1) > size:
            raise ValidationFailed(
                f"parameters.dimensions: this model's embeddings have {size} numbers; ask for at most that many."
            )
        return prepare_texts(model, request.listed, request.parameters)

    def answer(
        self,
        model: Model,
        request: EmbedRequest,
        prepared: Prepared,  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        parameters, size = request.parameters, _dimensions(model, request)
        embeddings = np.stack(results)
        if parameters.normalize is None and parameters.dimensions is None and model.manifest.normalizes:
            # sentence-transformers cuts what its Normalize module has made.
            embeddings = normalized(embeddings)[:, :size]
        elif model.manifest.normalizes if parameters.normalize is None else parameters.normalize:
            embeddings = normalized(embeddings[:, :size])
        else:
            embeddings = embeddings[:, :size]
        if request.parameters.encoding_format == "base64":
            return [b64encode(row.astype("<f4").tobytes()).decode() for row in embeddings]
        return [row.tolist() for row in embeddings]

    def weight(self, model: Model, request: EmbedRequest, prepared: Prepared) -> int:
        return len(prepared.sequences) * _dimensions(model, request) // NUMBERS_A_WEIGHT


def normalized(vectors: FloatArray) -> FloatArray:
    """Return vectors float[count, numbers] scaled to unit length; a vector of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, SHORTEST))


def _dimensions(model: Model, request: EmbedRequest) -> int:
    return request.parameters.dimensions or model.manifest.default_dimensions or model.manifest.dimensions


HANDLER: Final = EmbedHandler()
