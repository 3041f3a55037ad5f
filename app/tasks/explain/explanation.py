"""The explanation of one input, round by round."""

from typing import Any

import numpy as np

from app.bundle.sequences import FloatArray
from app.errors import ValidationFailed
from app.tasks.base import Model
from app.tasks.entities import HANDLER as ENTITIES
from app.tasks.entities import EntitiesRequest, whole_window
from app.tasks.explain.attribution import Attributing, Attribution, least_runs, occlusion, shapley
from app.tasks.explain.forms import ExplainParameters
from app.tasks.explain.perturbed import LocatedWord, Perturbed, located_words
from app.tasks.explain.subjects import FirstSubject, LabelSubject, Span, SpanSubject, Subject, TokenSubject
from app.tasks.rounds import Round, Rounds
from app.tasks.windows import prepared_windows
from app.text.located import Located


def explanation(
    model: Model, parameters: ExplainParameters, texts: tuple[str, ...], located: Located, place: str
) -> Rounds:
    """Return the rounds of an input, with the form of a prediction at their end.

    Args:
        model: The model.
        parameters: Of the request.
        texts: The input.
        located: Its tokens.
        place: What a caller calls it.

    Raises:
        ValidationFailed: it has no words, or not what is to be explained, or its words need more runs.
    """
    subject = _subject(model, parameters, texts, located, place)
    mask = model.manifest.special_tokens.mask
    words = located_words(texts, located, fixed=mask.id if mask is not None and model.task == "fill-mask" else None)
    if not words:
        raise ValidationFailed(f"{place} has no word that could be left out. Send more text.")
    least = subject.runs_first + (len(words) + 2 if parameters.method == "occlusion" else least_runs(len(words)))
    if least > parameters.max_runs:
        raise ValidationFailed(
            f"parameters.max_runs: {place} has {len(words)} words, for which {parameters.method} takes {least} runs or more. "
            "Raise it, or shorten the text."
        )
    removes = parameters.perturbation == "remove" or mask is None
    perturbed = Perturbed(located, words, None if removes or mask is None else mask.id)
    if removes and sum(len(word.tokens) for word in words) == len(located.input_ids):
        raise ValidationFailed(
            f"parameters.perturbation: nothing is left of {place} without its words, as this model has no special tokens around "
            "them. Send mask."
        )
    return _rounds(parameters, subject, perturbed, words)


def _subject(
    model: Model, parameters: ExplainParameters, texts: tuple[str, ...], located: Located, place: str
) -> Subject:
    manifest = model.manifest
    if manifest.task == "fill-mask":
        return TokenSubject(model, parameters.target, parameters.mask_index, located, place)
    if manifest.task == "next-sentence":
        return FirstSubject("softmax", "is_next")
    if manifest.task == "rerank":
        return FirstSubject(parameters.function_to_apply or manifest.score_function or "sigmoid", None)
    if manifest.task == "classify":
        return LabelSubject(manifest, parameters.target, parameters.function_to_apply)

    def best(logits: FloatArray) -> tuple[Span, str]:
        request = EntitiesRequest(inputs=texts[0])
        [entities] = ENTITIES.answer(model, request, prepared_windows([[whole_window(located)]], 0), [logits])
        if not entities:
            raise ValidationFailed(
                f"{place}: the model finds no entity there. Send parameters.start and parameters.end of what to explain."
            )
        found = max(entities, key=lambda entity: float(entity["score"]))
        return (found["start"], found["end"]), found["entity_group"]

    span = None if parameters.start is None or parameters.end is None else (parameters.start, parameters.end)
    return SpanSubject(manifest, parameters.target, span, located, place=place, best=best)


def _rounds(parameters: ExplainParameters, subject: Subject, perturbed: Perturbed, words: list[LocatedWord]) -> Rounds:
    count = len(words)
    if subject.runs_first:
        whole = yield Round(perturbed.sequences(np.ones((1, count), np.bool_), subject))
        assert whole is not None
        subject.choose(whole[0])
    method: Attributing = (
        occlusion(count)
        if parameters.method == "occlusion"
        else shapley(
            count,
            max_runs=parameters.max_runs - subject.runs_first,
            standard_error=parameters.standard_error,
            seed=parameters.seed,
        )
    )
    coalitions = next(method)
    is_first = True
    while True:
        results = yield Round(perturbed.sequences(coalitions, subject), is_needed=is_first)
        if is_first and results is not None:
            subject.choose(results[0])
        is_first = False
        scores = None if results is None else np.array([subject.score(result) for result in results])
        try:
            coalitions = method.send(scores)
        except StopIteration as end:
            return {"method": parameters.method, **_prediction(subject, perturbed, words, end.value)}


def _prediction(subject: Subject, perturbed: Perturbed, words: list[LocatedWord], found: Attribution) -> dict[str, Any]:
    start, end = subject.span or (None, None)
    contributions = found.contributions.tolist()
    errors = [None] * len(words) if found.standard_errors is None else found.standard_errors.tolist()
    return {
        "perturbation": perturbed.perturbation,
        "target": subject.target,
        "start": start,
        "end": end,
        "score": found.score,
        "baseline_score": found.baseline_score,
        "contributions": [
            {
                "word": word.word,
                "field": word.field,
                "start": word.start,
                "end": word.end,
                "contribution": contribution,
                "standard_error": error,
            }
            for word, contribution, error in zip(words, contributions, errors, strict=True)
        ],
        "remainder": found.score - found.baseline_score - sum(contributions),
        "runs": subject.runs_first + found.runs,
        "stopped": found.stopped,
    }
