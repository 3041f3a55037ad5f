"""Explanations: how much each word of an input adds to one score of the model's answer.

`attribution` says which words to leave out, and what that tells; `perturbed` makes the sequences without them; `subjects` has the
scores of their results, and `explanation` brings these together.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from app.bundle.manifest import Manifest
from app.bundle.sequences import SequenceResult
from app.errors import ValidationFailed
from app.tasks.base import Model, TaskHandler, without_tokens
from app.tasks.classify import HANDLER as CLASSIFY
from app.tasks.entities import HANDLER as ENTITIES
from app.tasks.explain.explanation import explanation
from app.tasks.explain.forms import ExplainParameters, ExplainRequest, ExplainResponse
from app.tasks.fill_mask import HANDLER as FILL_MASK
from app.tasks.next_sentence import HANDLER as NEXT_SENTENCE
from app.tasks.rerank import HANDLER as RERANK
from app.tasks.rounds import PreparedRounds, prepare_rounds

_PARAMETERS: Final[Mapping[TaskHandler[Any, Any, Any], Collection[str]]] = {
    CLASSIFY: {"target", "function_to_apply"},
    RERANK: {"function_to_apply"},
    FILL_MASK: {"target", "mask_index"},
    NEXT_SENTENCE: (),
    ENTITIES: {"target", "start", "end"},
}
"""The tasks that are explained, each with the parameters that not all of them have."""
_OF_SHAPLEY: Final = {"standard_error", "seed"}


class ExplainHandler(TaskHandler[ExplainRequest, PreparedRounds, SequenceResult]):
    """`POST /v1/explain`."""

    task = "explain"
    summary = "How much each word adds to a score of the model's answer"
    request = ExplainRequest
    response = ExplainResponse
    short_bytes = 1024  # a larger one becomes hundreds of sequences

    def serves(self, manifest: Manifest) -> bool:
        return any(handler.task == manifest.task for handler in _PARAMETERS)

    def example(self, model: Model) -> dict[str, Any]:
        [own] = (handler for handler in _PARAMETERS if handler.task == model.task)
        inputs = own.example(model)["inputs"]
        if own is RERANK:
            inputs = {"text": inputs["query"], "text_pair": inputs["texts"][0]}
        return {"model": model.name, "inputs": inputs}

    def prepare(self, model: Model, request: ExplainRequest) -> PreparedRounds:
        parameters = request.parameters
        _check(model, parameters)
        for i, texts in enumerate(request.listed):
            _check_texts(model, texts, f"inputs[{i}]")
        located = model.tokenizer.encode_located(
            [texts[0] if len(texts) == 1 else (texts[0], texts[1]) for texts in request.listed],
            parameters.truncation_direction or model.tokenizer.direction,
        )
        is_cut = parameters.truncation and model.task != "fill-mask"  # which might cut off its masks
        for i, one in enumerate(located):
            if one.was_truncated and not is_cut:
                raise ValidationFailed(
                    f"inputs[{i}] has more than {model.tokenizer.max_length} tokens, the most this model takes. Shorten it."
                )
            if not len(one.input_ids):
                raise without_tokens(f"inputs[{i}]")
        return prepare_rounds(
            [
                explanation(model, parameters, texts, one, f"inputs[{i}]")
                for i, (texts, one) in enumerate(zip(request.listed, located, strict=True))
            ],
            truncated=sum(one.was_truncated for one in located),
        )

    def answer(
        self,
        model: Model,  # noqa: ARG002
        request: ExplainRequest,  # noqa: ARG002
        prepared: PreparedRounds,
        results: Sequence[SequenceResult],  # noqa: ARG002 - the rounds have had them
    ) -> list[Any]:
        return prepared.predictions


def _check(model: Model, parameters: ExplainParameters) -> None:
    """Pass if each parameter means something for this model and method.

    Raises:
        ValidationFailed: one does not.
    """
    for name in sorted(parameters.model_fields_set):
        takers = [handler.task for handler, names in _PARAMETERS.items() if name in names]
        if takers and model.task not in takers:
            raise ValidationFailed(
                f"parameters.{name}: is for {' and '.join(takers)}, and this model does {model.task}. Leave it out."
            )
        if name in _OF_SHAPLEY and parameters.method != "shapley":
            raise ValidationFailed(f"parameters.{name}: is for shapley. Send that as parameters.method, too.")
    if parameters.function_to_apply == "softmax" and model.task == "rerank":
        raise ValidationFailed("parameters.function_to_apply: a ranked text has one number. Send sigmoid or none.")
    if (parameters.start is None) != (parameters.end is None):
        raise ValidationFailed("parameters.start and parameters.end: send both of them, or none.")
    if parameters.perturbation == "remove" and model.task == "entities":
        raise ValidationFailed(
            "parameters.perturbation: an entity whose words are removed has no score. Send mask, or leave it out."
        )
    if parameters.perturbation == "mask" and model.manifest.special_tokens.mask is None:
        raise ValidationFailed("parameters.perturbation: this model has no mask token. Send remove, or leave it out.")


def _check_texts(model: Model, texts: tuple[str, ...], place: str) -> None:
    if len(texts) == 1 and model.task == "rerank":
        raise ValidationFailed(
            f"{place}: this model ranks texts by a query. Send the query as text, and a text as text_pair."
        )
    if len(texts) == 1 and model.task == "next-sentence":
        raise ValidationFailed(f"{place}: this model reads pairs. Send text and text_pair.")
    if len(texts) == 2 and model.task in ("fill-mask", "entities"):
        raise ValidationFailed(f"{place}: this model reads single texts. Leave out text_pair.")


HANDLER: Final = ExplainHandler()
