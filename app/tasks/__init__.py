"""The task-specific steps before and after the model: request to token sequences, and results to answers.

`docs/architecture.md` explains how to add a task.
"""

from typing import Any, Final

from app.bundle.manifest import Task
from app.tasks.answer import QuestionAnswering
from app.tasks.base import TaskHandler
from app.tasks.classify import Classify
from app.tasks.embed import Embed
from app.tasks.entities import Entities
from app.tasks.fill_mask import FillMask
from app.tasks.next_sentence import NextSentence

TASKS: Final[dict[Task, TaskHandler[Any, Any, Any]]] = {
    handler.task: handler
    for handler in (Classify(), FillMask(), NextSentence(), Entities(), QuestionAnswering(), Embed())
}
