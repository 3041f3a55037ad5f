"""The teacher: a fine-tuned checkpoint, and the task that it is fine-tuned for."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from training.checkpoint import Checkpoint
from training.errors import TrainingError
from training.finetune.arguments import Task

_HEADS: Final[Mapping[str, tuple[Task, Any]]] = {
    "ForSequenceClassification": ("classify", AutoModelForSequenceClassification),
    "ForTokenClassification": ("entities", AutoModelForTokenClassification),
    "ForQuestionAnswering": ("answer", AutoModelForQuestionAnswering),
}


def open_teacher(checkpoint: Checkpoint) -> tuple[Task, PreTrainedModel]:
    """Load a teacher.

    Raises:
        TrainingError: it is not fine-tuned for a task.
    """
    names = checkpoint.config.architectures or []
    found = [head for end, head in _HEADS.items() if any(name.endswith(end) for name in names)]
    if not found:
        raise TrainingError(
            f"{checkpoint.name} is no fine-tuned checkpoint ({', '.join(names) or 'its config names no head'}): "
            "python -m training finetune makes one."
        )
    [(task, network)] = found[:1]
    teacher = network.from_pretrained(checkpoint.name, dtype=torch.float32)
    config = teacher.config
    if task == "classify" and config.problem_type is None:
        config.problem_type = "regression" if config.num_labels == 1 else "single_label_classification"
    return task, teacher
