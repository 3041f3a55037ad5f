"""The tasks: for each a module with its request, its response and its handler, which turns one into the other.

A task is added by a module with a `HANDLER`; nothing lists it. `base` is the interface of a task, `inputs` the forms of a
request's inputs, `windows` reads texts of any length, `catalog` finds the model for a request.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final

from app.bundle.manifest import Manifest, Task
from app.tasks.base import TaskHandler


def _handlers() -> dict[Task, TaskHandler[Any, Any, Any]]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return {module.HANDLER.task: module.HANDLER for module in modules if hasattr(module, "HANDLER")}


TASKS: Final = _handlers()


def tasks_of(manifest: Manifest) -> list[Task]:
    """Return all tasks that a model does, first the one that it was exported for."""
    able = (task for task, handler in TASKS.items() if handler.serves(manifest))
    return sorted(able, key=lambda task: task != manifest.task)
