"""What a task does before and after the model: from a validated request to token sequences, from results to answers.

To add a task: its schemas in `app.schemas`, a module here and its line in `TASKS`, its graph's end in `app.heads`.
"""

from typing import Any, Final

from app.bundle import Task
from app.tasks.base import TaskHandler
from app.tasks.classify import Classify
from app.tasks.fill_mask import FillMask

TASKS: Final[dict[Task, TaskHandler[Any, Any]]] = {"classify": Classify(), "fill-mask": FillMask()}
