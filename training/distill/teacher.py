"""The teacher: a fine-tuned checkpoint, and the task that it is fine-tuned for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from training.checkpoint import Checkpoint
from training.distill.evaluation import Form
from training.errors import TrainingError
from training.finetune.arguments import Task

_HEADS: Final[Mapping[str, tuple[Task, Any]]] = {
    "ForSequenceClassification": ("classify", AutoModelForSequenceClassification),
    "ForTokenClassification": ("entities", AutoModelForTokenClassification),
    "ForQuestionAnswering": ("answer", AutoModelForQuestionAnswering),
}


@dataclass(frozen=True, slots=True)
class Teacher:
    """A fine-tuned network, what it is for, and what it answers."""

    network: PreTrainedModel
    task: Task
    form: Form

    @property
    def labels(self) -> set[str]:
        """Names of the labels, or of the types of entities, that it knows."""
        names = set(self.network.config.id2label.values())
        return {name.split("-", 1)[-1] for name in names - {"O"}} if self.form == "entities" else names


def open_teacher(checkpoint: Checkpoint) -> Teacher:
    """Load a teacher.

    Raises:
        TrainingError: it is not fine-tuned for a task, or predicts several numbers.
    """
    names = checkpoint.config.architectures or []
    found = [head for end, head in _HEADS.items() if any(name.endswith(end) for name in names)]
    if not found:
        raise TrainingError(
            f"{checkpoint.name} is no fine-tuned checkpoint ({', '.join(names) or 'its config names no head'}): "
            "python -m training finetune makes one."
        )
    [(task, network)] = found[:1]
    form = _form(checkpoint) if task == "classify" else task
    return Teacher(network.from_pretrained(checkpoint.name, dtype=torch.float32), task, form)


def _form(checkpoint: Checkpoint) -> Form:
    """Return what a classifier answers; a config may lack the problem_type, or have one that does not fit its labels."""
    config = checkpoint.config
    if config.problem_type == "multi_label_classification":
        return "labels"
    if config.num_labels == 1:
        return "number"
    if config.problem_type == "regression":
        raise TrainingError(
            f"{checkpoint.name} predicts {config.num_labels} numbers, and a student learns one. If they are labels, set "
            '"problem_type" in its config.json to "single_label_classification".'
        )
    return "label"
