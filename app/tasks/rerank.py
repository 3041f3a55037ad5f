"""Reranking: a score for each text by a query, as sentence-transformers' CrossEncoder computes them, best first."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel, Field

from app.bundle.manifest import Manifest, ScoreFunction
from app.bundle.sequences import FloatArray
from app.tasks.base import BYTES_A_PAIR, Model, Prepared, TaskHandler, Usage, example, prepare_pairs
from app.tasks.inputs import ModelName, QueryTexts, RankInputs, Request, Truncation, as_list
from app.tasks.scores import FUNCTIONS

CHARACTERS_A_WEIGHT: Final = 4096
"""Characters of returned texts that are written in one unit of `weight`."""


class RerankParameters(Truncation):
    """How to rank."""

    top_n: int | None = Field(None, ge=1, description="Return only the best texts; default: all.")
    return_documents: bool = Field(False, description="Return the texts themselves, too.")
    function_to_apply: ScoreFunction | None = Field(
        None, description="Turns logits into scores. Default: what the checkpoint says, otherwise sigmoid."
    )


class RerankRequest(Request):
    """Queries, each with texts to rank by it."""

    model: ModelName = None
    inputs: RankInputs
    parameters: RerankParameters = RerankParameters()

    @property
    def listed(self) -> list[QueryTexts]:
        """The inputs as a list."""
        return as_list(self.inputs)


class Ranked(BaseModel):
    """A text, by its number in `texts`, and its score. `text` is there if the request asks for it."""

    index: int
    score: float
    text: str | None = None


class RerankResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, best text first."""

    model_config = example([{"index": 1, "score": 0.9871}, {"index": 0, "score": 0.0124}], tokens=31)

    model: str
    predictions: list[list[Ranked]]
    usage: Usage


class RerankHandler(TaskHandler[RerankRequest, Prepared, FloatArray]):
    """`POST /v1/rerank`."""

    task = "rerank"
    summary = "Texts by how well they match a query"
    request = RerankRequest
    response = RerankResponse
    best = ("index", "score")
    place: ClassVar[str] = "inputs[{}].texts[{}] with its query"
    """Where a text stands in a request, as errors name it."""

    def serves(self, manifest: Manifest) -> bool:
        return manifest.task == "rerank" or (manifest.task == "classify" and len(manifest.labels) == 1)

    def count(self, request: RerankRequest) -> int:
        return sum(len(one.texts) for one in request.listed)

    def inputs_of(self, text: str, text_pair: str | None) -> Any:  # noqa: ANN401 - JSON
        return {"query": text, "texts": [text_pair]}

    def example(self, model: Model) -> dict[str, Any]:
        texts = ["Paris is the capital of France.", "The cat sat on the mat."]
        return {"model": model.name, "inputs": {"query": "What is the capital of France?", "texts": texts}}

    def bytes_to_prepare(self, model: Model, request: RerankRequest, body_bytes: int) -> int:  # noqa: ARG002
        return body_bytes + self.count(request) * BYTES_A_PAIR

    def prepare(self, model: Model, request: RerankRequest) -> Prepared:
        numbers = [(i, j) for i, one in enumerate(request.listed) for j in range(len(one.texts))]
        return prepare_pairs(
            model,
            [(one.query, text) for one in request.listed for text in one.texts],
            request.parameters,
            lambda number: self.place.format(*numbers[number]),
        )

    def answer(
        self,
        model: Model,
        request: RerankRequest,
        prepared: Prepared,  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        parameters = request.parameters
        function = FUNCTIONS[parameters.function_to_apply or model.manifest.score_function or "sigmoid"]
        scores = [function(logits.tolist())[0] for logits in results]
        predictions = []
        for one in request.listed:
            own, scores = scores[: len(one.texts)], scores[len(one.texts) :]
            # Python's sort is stable: texts of equal score keep their order.
            best = sorted(range(len(own)), key=own.__getitem__, reverse=True)[: parameters.top_n]
            ranked: list[dict[str, Any]] = [{"index": i, "score": own[i]} for i in best]
            if parameters.return_documents:
                ranked = [entry | {"text": one.texts[entry["index"]]} for entry in ranked]
            predictions.append(ranked)
        return predictions

    def weight(self, model: Model, request: RerankRequest, prepared: Prepared) -> int:  # noqa: ARG002
        written = sum(map(len, (text for one in request.listed for text in one.texts)))
        return len(prepared.sequences) + (written // CHARACTERS_A_WEIGHT if request.parameters.return_documents else 0)


HANDLER: Final = RerankHandler()
