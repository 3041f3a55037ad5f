"""Compare what callers would get for a model's golden inputs with what they got of its checkpoint.

The engine has compared the graph's numbers, and knows no labels. Here the golden numbers become an answer, as those of a request
do: so a manifest and golden answers that do not belong together are found before a request is.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from app.bundle.manifest import GoldenCase, GoldenLabel
from app.bundle.sequences import MaskScores, SequenceResult
from app.tasks.base import Model, TaskHandler

CLOSE: Final = 1e-4
"""Most that a score may differ: it was computed of the same numbers, which were written with 7 digits, in another precision."""
# What shows every label: by default the entities of tokens are joined, and some are left out.
_PARAMETERS: Final = {"entities": {"aggregation_strategy": "none", "ignore_labels": []}}


def replay_answers(model: Model, handler: TaskHandler[Any, Any, Any], cases: Sequence[GoldenCase]) -> None:
    """Make the golden answers as those of requests are made.

    Raises:
        ValueError: one is not that of the checkpoint, or cannot be made.
    """
    for i, case in enumerate(cases):
        result = _result(case, handler.golden)
        _check_width(model, result)
        inputs = {"inputs": handler.inputs_of(case.text, case.text_pair)}
        request = handler.request.model_validate(inputs | {"parameters": _PARAMETERS.get(handler.task, {})})
        prepared = handler.prepare(model, request)
        [answer] = handler.answer(model, request, prepared, [result])
        if case.labels is not None and not _same(answer, case.labels):
            raise ValueError(f"golden case {i} gets other labels or scores than at the export")


def _result(case: GoldenCase, key: str) -> SequenceResult:
    """Return what the graph answers."""
    value = getattr(case, key)
    if value is None:
        raise ValueError(f"a golden case has no {key}, so that it is of another task")
    if key == "masks":
        return MaskScores(
            np.array([mask.tokens for mask in value], np.int64), np.array([mask.scores for mask in value], np.float32)
        )
    numbers = np.array(value, np.float64)
    if not (np.abs(numbers) < np.finfo(np.float32).max).all():
        raise ValueError("a golden answer is not finite")
    return numbers.astype(np.float32)


def _check_width(model: Model, result: SequenceResult) -> None:
    """Pass if there is a label for each number."""
    manifest = model.manifest
    if isinstance(result, MaskScores):
        return
    expected = (
        manifest.dimensions if manifest.task == "embed" else 2 if manifest.task == "answer" else len(manifest.labels)
    )
    if result.shape[-1] != expected:
        raise ValueError(f"there are {expected} labels or numbers for the {result.shape[-1]} that the model answers")


def _same(answer: Sequence[dict[str, Any]], labels: Sequence[GoldenLabel]) -> bool:
    """Return whether an answer has these labels: all of them, best first, or, of tokens, each that of its token."""
    if any("entity" in one for one in answer):
        return all(
            one["entity"] == labels[one["index"]].label and abs(one["score"] - labels[one["index"]].score) <= CLOSE
            for one in answer
        )
    return len(answer) == len(labels) and all(
        one.get("label", golden.label) == golden.label and abs(one["score"] - golden.score) <= CLOSE
        for one, golden in zip(answer, labels, strict=True)
    )
