"""Next sentence: whether the second text of a pair continues the first, as in BERT's pre-training."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from app.bundle.sequences import FloatArray
from app.tasks.base import Model, Prepared, TaskHandler, Usage, example, prepare_whole
from app.tasks.inputs import ModelName, Request, SentenceInputs, Truncation, as_list
from app.tasks.scores import softmax


class NextSentenceParameters(Truncation):
    """How to tokenize pairs."""


class NextSentenceRequest(Request):
    """Pairs of texts: does the second continue the first?"""

    model: ModelName = None
    inputs: SentenceInputs
    parameters: NextSentenceParameters = NextSentenceParameters()

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The inputs as a list of pairs."""
        return [(pair.text, pair.text_pair) for pair in as_list(self.inputs)]


class NextSentence(BaseModel):
    """Whether the second text continues the first, and the probability that it does."""

    is_next: bool
    score: float


class NextSentenceResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`."""

    model_config = example({"is_next": True, "score": 0.9991}, tokens=16)

    model: str
    predictions: list[NextSentence]
    usage: Usage


class NextSentenceHandler(TaskHandler[NextSentenceRequest, Prepared, FloatArray]):
    """`POST /v1/next-sentence`."""

    task = "next-sentence"
    summary = "Whether one text continues another"
    request = NextSentenceRequest
    response = NextSentenceResponse
    best = ("is_next", "score")

    def inputs_of(self, text: str, text_pair: str | None) -> Any:  # noqa: ANN401 - JSON
        return {"text": text, "text_pair": text_pair}

    def example(self, model: Model) -> dict[str, Any]:
        return {"model": model.name, "inputs": {"text": "It began to rain.", "text_pair": "She opened her umbrella."}}

    def prepare(self, model: Model, request: NextSentenceRequest) -> Prepared:
        return prepare_whole(model, request.listed, request.parameters)

    def answer(
        self,
        model: Model,  # noqa: ARG002
        request: NextSentenceRequest,  # noqa: ARG002
        prepared: Prepared,  # noqa: ARG002
        results: Sequence[FloatArray],
    ) -> list[Any]:
        predictions = []
        for logits in results:
            is_next, is_not = logits.tolist()
            score, _ = softmax([is_next, is_not])
            predictions.append({"is_next": is_next >= is_not, "score": score})
        return predictions


HANDLER: Final = NextSentenceHandler()
