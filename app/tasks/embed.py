"""Embeddings: one vector per text, as in sentence-transformers. Pooling is part of the graph."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from pydantic import BaseModel

from app.bundle.manifest import Task
from app.bundle.sequences import FloatArray
from app.tasks.base import SHORT_BYTES, Prepared, prepare_whole
from app.tasks.catalog import Model
from app.tasks.requests import EmbedRequest
from app.tasks.responses import EmbedResponse

SHORTEST: Final = 1e-12
"""Smallest norm that a vector is divided by, as in torch's `normalize`."""
NUMBERS_A_WEIGHT: Final = 64
"""Numbers that are written in one unit of `weight`."""


class Embed:
    """`POST /v1/embed`."""

    task: ClassVar[Task] = "embed"
    summary: ClassVar[str] = "An embedding for each text"
    request: ClassVar[type[BaseModel]] = EmbedRequest
    response: ClassVar[type[BaseModel]] = EmbedResponse
    short_bytes: ClassVar[int] = SHORT_BYTES

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
