"""The tasks: for each a module with its request, its response and its handler, which turns one into the other.

A task is added by a module with a `HANDLER`; nothing lists it. `base` is the interface of a task, `inputs` the forms of a
request's inputs, `windows` reads texts of any length, `catalog` finds the model for a request.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final

from app.bundle.manifest import Task
from app.tasks.base import TaskHandler


def _handlers() -> dict[Task, TaskHandler[Any, Any, Any]]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return {module.HANDLER.task: module.HANDLER for module in modules if hasattr(module, "HANDLER")}


TASKS: Final = _handlers()
