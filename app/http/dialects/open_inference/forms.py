"""What the tensors of each task are called, and how they become its request and come from its predictions."""

from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from pydantic_core import to_json

from app.bundle.manifest import Task
from app.errors import ValidationFailed
from app.tasks import TASKS
from app.tasks.base import Model, TaskHandler

Texts = Mapping[str, list[str]]
"""The texts of each input, by its name."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a task."""

    datatype: str
    rank: int
    values: Callable[[list[Any]], object]
    """Makes it, as nested lists or as an array, of the task's predictions."""


@dataclass(frozen=True, slots=True)
class Form:
    """The tensors of a task."""

    inputs: tuple[str, ...]
    make: Callable[[Texts], object]
    """Makes what the task has as `inputs`, of the texts of `inputs` and `optional`."""
    outputs: Mapping[str, Output]
    optional: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    """Inputs that are parameters of the task: lists of texts, which the protocol's own parameters cannot be."""
    needs_parameters: bool = False
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Parameters of the task that a caller cannot choose."""

    @property
    def required(self) -> tuple[str, ...]:
        """The inputs that a request must have."""
        return self.inputs + (self.parameters if self.needs_parameters else ())

    @property
    def names(self) -> tuple[str, ...]:
        """All inputs."""
        return self.inputs + self.optional + self.parameters

    @property
    def described(self) -> str:
        """The inputs in words."""
        return " and ".join(name if name in self.required else f"{name} (optional)" for name in self.names)


def form_for(model: Model, names: Collection[str]) -> tuple[TaskHandler[Any, Any, Any], Form]:
    """Return the task that a model can do with inputs of these names: its own one, or another.

    Raises:
        ValidationFailed: it does none with these.
    """
    handlers = sorted(
        (handler for handler in TASKS.values() if handler.task in FORMS and handler.serves(model.manifest)),
        key=lambda handler: handler.task != model.task,
    )
    for handler in handlers:
        form = FORMS[handler.task]
        if set(form.required) <= set(names) <= set(form.names):
            return handler, form
    raise ValidationFailed(
        f"inputs: this model takes {', or '.join(FORMS[handler.task].described for handler in handlers)}. "
        "Send these names."
    )


def _texts(texts: Texts) -> object:
    return texts["text"]


def _rows(texts: Texts) -> object:
    """Return an object for each place of tensors of one length."""
    names = list(texts)
    if len({len(column) for column in texts.values()}) > 1:
        raise ValidationFailed(f"inputs: {' and '.join(names)} should have the same number of texts.")
    return [dict(zip(names, row, strict=True)) for row in zip(*texts.values(), strict=True)]


def _one_to_many(one: str, many: str, texts: Texts) -> object:
    """Return an object with the only text of one tensor and all of another."""
    if len(texts[one]) != 1:
        raise ValidationFailed(f"inputs: {one} should be one text, of the shape [1]. Send a request for each.")
    return {one: texts[one][0], many: texts[many]}


def _each(key: str, predictions: list[Any]) -> object:
    return [[entry[key] for entry in prediction] for prediction in predictions]


def _key(key: str, predictions: list[Any]) -> object:
    return [prediction[key] for prediction in predictions]


def _documents(predictions: list[Any]) -> object:
    return [to_json(prediction).decode() for prediction in predictions]


def _vectors(predictions: list[Any]) -> object:
    """Return float32[texts, numbers] of vectors in base64, without a Python number for each of theirs."""
    return np.frombuffer(b"".join(map(b64decode, predictions)), "<f4").reshape(len(predictions), -1)


PREDICTION: Final = {"prediction": Output("BYTES", 1, _documents)}
LABELS: Final = {
    "label": Output("BYTES", 2, partial(_each, "label")),
    "score": Output("FP32", 2, partial(_each, "score")),
} | PREDICTION

FORMS: Final[Mapping[Task, Form]] = {
    "classify": Form(("text",), _rows, LABELS, optional=("text_pair",)),
    "zero-shot": Form(("text",), _texts, LABELS, parameters=("candidate_labels",), needs_parameters=True),
    "fill-mask": Form(("text",), _texts, PREDICTION, parameters=("targets",)),
    "entities": Form(("text",), _texts, PREDICTION, parameters=("ignore_labels",)),
    "answer": Form(("question", "context"), _rows, PREDICTION),
    "next-sentence": Form(
        ("text", "text_pair"),
        _rows,
        {
            "is_next": Output("BOOL", 1, partial(_key, "is_next")),
            "score": Output("FP32", 1, partial(_key, "score")),
        }
        | PREDICTION,
    ),
    "rerank": Form(
        ("query", "texts"),
        partial(_one_to_many, "query", "texts"),
        {
            "index": Output("INT64", 2, partial(_each, "index")),
            "score": Output("FP32", 2, partial(_each, "score")),
        }
        | PREDICTION,
    ),
    "similarity": Form(
        ("source_sentence", "sentences"),
        partial(_one_to_many, "source_sentence", "sentences"),
        {"similarity": Output("FP32", 2, list)} | PREDICTION,
    ),
    # No prediction: its numbers would be there twice, and most of the answer's bytes would be decimals.
    "embed": Form(("text",), _texts, {"embedding": Output("FP32", 2, _vectors)}, fixed={"encoding_format": "base64"}),
}
