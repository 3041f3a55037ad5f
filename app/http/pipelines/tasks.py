"""The pipelines: each translates the requests and answers of one task."""

from abc import ABC, abstractmethod
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict

from app.bundle.manifest import Task
from app.errors import ValidationFailed
from app.http.pipelines.body import Asked
from app.tasks import TASKS
from app.tasks.answer import MAX_TOKENS, AnswerParameters, AnswerRequest
from app.tasks.base import Model
from app.tasks.inputs import MAX_INPUTS

HOSTED_TOP_K: Final = 5
"""How many labels the hosted API gives for a single text; for a list of texts, it gives the best of each."""


class Pipeline(ABC):
    """Translates the requests and answers of one task."""

    names: ClassVar[tuple[str, ...]]
    task: ClassVar[Task]
    is_telling: ClassVar[bool] = False
    """Whether what fits this pipeline fits no other."""
    own_names: ClassVar[frozenset[str]] = frozenset()
    """The parameters that the task's request does not have by this name."""

    @property
    def request(self) -> type[BaseModel]:
        """The task's request, or one that has its parameters by other names."""
        return TASKS[self.task].request

    @abstractmethod
    def fits(self, asked: Asked) -> bool:
        """Whether a request has the form of this task."""

    def inputs(self, asked: Asked) -> Any:  # noqa: ANN401 - JSON
        """Return the task's inputs."""
        if not isinstance(asked.inputs, dict):
            return asked.inputs
        return {name: value for name, value in asked.inputs.items() if name not in self._parameter_names}

    def parameters(self, asked: Asked, model: Model) -> dict[str, Any]:  # noqa: ARG002
        """Return the task's parameters. Null is what a parameter is without a value.

        Raises:
            ValidationFailed: one has a value that it cannot have here.
        """
        return {name: value for name, value in self.given(asked).items() if value is not None}

    def given(self, asked: Asked) -> dict[str, Any]:
        """Return the parameters as they were sent, wherever they stand."""
        beside = {name: asked.beside[name] for name in self._parameter_names & asked.beside.keys()}
        return {**beside, **asked.parameters}

    @cached_property
    def _parameter_names(self) -> frozenset[str]:
        parameters: Any = self.request.model_fields["parameters"].annotation
        return self.own_names | {field.alias or name for name, field in parameters.model_fields.items()}

    def write(self, asked: Asked, predictions: list[Any]) -> object:
        """Return the answer."""
        return predictions if asked.is_list else predictions[0]


class QuestionAnswering(Pipeline):
    """An object for one answer, a list for several."""

    names = ("question-answering",)
    task = "answer"
    is_telling = True
    own_names = frozenset({"align_to_words", "max_seq_len"})

    @property
    def request(self) -> type[BaseModel]:
        return QuestionAnsweringRequest

    def fits(self, asked: Asked) -> bool:
        return asked.has("question", "context")

    def inputs(self, asked: Asked) -> Any:  # noqa: ANN401 - JSON
        inputs = super().inputs(asked)
        if not isinstance(inputs, dict) or not isinstance(inputs.get("question"), list):
            return inputs
        questions, contexts = inputs["question"], inputs.get("context")
        if not isinstance(contexts, list):
            contexts = [contexts] * len(questions)
        if len(questions) != len(contexts):
            raise ValidationFailed(
                "inputs: question and context are lists of different length; send a context a question."
            )
        # Of more the task needs to know only that there are more.
        pairs = islice(zip(questions, contexts, strict=True), MAX_INPUTS + 1)
        return [{**inputs, "question": one, "context": other} for one, other in pairs]

    def parameters(self, asked: Asked, model: Model) -> dict[str, Any]:
        parameters = super().parameters(asked, model)
        _refuse_others(parameters, "align_to_words", value=True)
        _refuse_others(parameters, "max_seq_len", value=min(MAX_TOKENS, model.tokenizer.max_length))
        return parameters

    def write(self, asked: Asked, predictions: list[Any]) -> object:  # noqa: ARG002
        answers = [one[0] if len(one) == 1 else one for one in predictions]
        return answers[0] if len(answers) == 1 else answers


class QuestionAnsweringParameters(AnswerParameters):
    """Those of the task, by the pipeline's names."""

    model_config = ConfigDict(
        alias_generator=lambda name: {
            "max_answer_length": "max_answer_len",
            "max_question_length": "max_question_len",
            "stride": "doc_stride",
        }.get(name, name)
    )


class QuestionAnsweringRequest(AnswerRequest):
    """The task's request, with parameters by the pipeline's names."""

    parameters: QuestionAnsweringParameters = QuestionAnsweringParameters()


class ZeroShotClassification(Pipeline):
    """Hosted, the labels of one text with their scores; the pipeline's object for each text of a list, as in a pipeline."""

    names = ("zero-shot-classification",)
    task = "zero-shot"
    is_telling = True
    own_names = frozenset({"candidateLabels"})

    def fits(self, asked: Asked) -> bool:
        return not {"candidate_labels", "candidateLabels"}.isdisjoint(self.given(asked))

    def inputs(self, asked: Asked) -> Any:  # noqa: ANN401 - JSON
        inputs = super().inputs(asked)
        if isinstance(inputs, dict) and inputs.keys() in ({"sequences"}, {"text"}):
            [inputs] = inputs.values()
        return inputs

    def parameters(self, asked: Asked, model: Model) -> dict[str, Any]:
        parameters = super().parameters(asked, model)
        if "candidateLabels" in parameters:
            parameters["candidate_labels"] = parameters.pop("candidateLabels")
        if isinstance(labels := parameters.get("candidate_labels"), str):
            parameters["candidate_labels"] = [label.strip() for label in labels.split(",") if label.strip()]
        return parameters

    def write(self, asked: Asked, predictions: list[Any]) -> object:
        given = self.inputs(asked)
        if asked.form == "hosted" and not isinstance(given, list):
            return predictions[0]
        texts = given if isinstance(given, list) else [given]
        answers = [
            {"sequence": text, "labels": [one["label"] for one in labels], "scores": [one["score"] for one in labels]}
            for text, labels in zip(texts, predictions, strict=True)
        ]
        return answers if isinstance(given, list) else answers[0]


class TextRanking(Pipeline):
    """The texts of a query, best first."""

    names = ("text-ranking", "sentence-ranking")
    task = "rerank"
    is_telling = True

    def fits(self, asked: Asked) -> bool:
        return asked.has("query", "texts")


class TextClassification(Pipeline):
    """Hosted, the best labels of each text; a pipeline returns the best one only unless `top_k` is given, null for all."""

    names = ("text-classification", "sentiment-analysis")
    task = "classify"
    own_names = frozenset({"padding", "max_length"})

    def fits(self, asked: Asked) -> bool:
        return isinstance(asked.first, str | list) or asked.has("text")

    def inputs(self, asked: Asked) -> Any:  # noqa: ANN401 - JSON
        return [_pair(one) for one in asked.inputs] if asked.is_list else super().inputs(asked)

    def parameters(self, asked: Asked, model: Model) -> dict[str, Any]:
        parameters = super().parameters(asked, model)
        parameters.pop("padding", None)  # changes no answer
        _refuse_others(parameters, "max_length", value=model.tokenizer.max_length)
        default = HOSTED_TOP_K if asked.form == "hosted" and not asked.is_list else 1
        return parameters | {"top_k": self.given(asked).get("top_k", default)}

    def write(self, asked: Asked, predictions: list[Any]) -> object:
        if asked.form == "hosted":
            return predictions
        if "top_k" in self.given(asked):
            return super().write(asked, predictions)
        best = [labels[0] for labels in predictions]
        return best if isinstance(asked.inputs, str | list) else best[0]


class NextSentence(Pipeline):
    """The labels IS_NEXT and NOT_NEXT of pairs of texts, as text classification gives them: transformers has no such pipeline."""

    names = TextClassification.names
    task = "next-sentence"

    def fits(self, asked: Asked) -> bool:
        return isinstance(asked.first, list) or asked.has("text", "text_pair")

    def inputs(self, asked: Asked) -> Any:  # noqa: ANN401 - JSON
        return [_pair(one) for one in asked.inputs] if asked.is_list else super().inputs(asked)

    def write(self, asked: Asked, predictions: list[Any]) -> object:
        labels = [
            [{"label": "IS_NEXT", "score": one["score"]}, {"label": "NOT_NEXT", "score": 1 - one["score"]}]
            for one in predictions
        ]
        labels = [pair if one["is_next"] else pair[::-1] for pair, one in zip(labels, predictions, strict=True)]
        if asked.form == "hosted":
            return labels
        return super().write(asked, [pair[0] for pair in labels])


class TokenClassification(Pipeline):
    """A list of entities a text. Hosted, tokens with the same label are joined by default; in a pipeline they are not."""

    names = ("token-classification", "ner")
    task = "entities"

    def fits(self, asked: Asked) -> bool:
        return isinstance(asked.first, str)

    def parameters(self, asked: Asked, model: Model) -> dict[str, Any]:
        default = "simple" if asked.form == "hosted" else "none"
        return {"aggregation_strategy": default} | super().parameters(asked, model)


class FillMask(Pipeline):
    """A list of tokens for a text with one mask, a list of such lists for one with several."""

    names = ("fill-mask",)
    task = "fill-mask"

    def fits(self, asked: Asked) -> bool:
        return isinstance(asked.first, str)

    def parameters(self, asked: Asked, model: Model) -> dict[str, Any]:
        parameters = super().parameters(asked, model)
        if isinstance(parameters.get("targets"), str):
            parameters["targets"] = [parameters["targets"]]
        return parameters

    def write(self, asked: Asked, predictions: list[Any]) -> object:  # noqa: ARG002
        texts = [masks[0] if len(masks) == 1 else masks for masks in predictions]
        return texts[0] if len(texts) == 1 else texts


class Embedding(Pipeline):
    """What has an embedding model."""

    own_names = frozenset({"truncate"})

    def parameters(self, asked: Asked, model: Model) -> dict[str, Any]:
        parameters = super().parameters(asked, model)
        if "truncate" in parameters:
            parameters["truncation"] = truncate = parameters.pop("truncate")
            if not isinstance(truncate, bool):
                raise ValidationFailed("parameters.truncate: should be true or false.")
        return parameters


class FeatureExtraction(Embedding):
    """An embedding a text."""

    names = ("feature-extraction", "sentence-embeddings")
    task = "embed"

    def fits(self, asked: Asked) -> bool:
        return isinstance(asked.first, str)


class SentenceSimilarity(Embedding):
    """The cosine similarity of a text to each of others."""

    names = ("sentence-similarity",)
    task = "similarity"
    is_telling = True

    def fits(self, asked: Asked) -> bool:
        return asked.has("source_sentence", "sentences")


PIPELINES: Final[tuple[Pipeline, ...]] = (
    QuestionAnswering(),
    ZeroShotClassification(),
    TextRanking(),
    SentenceSimilarity(),
    TextClassification(),
    NextSentence(),
    TokenClassification(),
    FillMask(),
    FeatureExtraction(),
)
"""Those that need more of a request come first."""


def _pair(one: object) -> object:
    """Return two texts in a list, which may itself be in a list, as a pair; anything else as it is."""
    if isinstance(one, list) and len(one) == 1:
        [one] = one
    if isinstance(one, list) and len(one) == 2:
        return {"text": one[0], "text_pair": one[1]}
    return one


def _refuse_others(parameters: dict[str, Any], name: str, *, value: object) -> None:
    """Remove a parameter that has but one value here.

    Raises:
        ValidationFailed: it has another.
    """
    if parameters.pop(name, value) != value:
        shown = str(value).lower()
        raise ValidationFailed(f"parameters.{name}: is always {shown} for this model on this server; leave it out.")
