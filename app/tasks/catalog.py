"""The served models, as a front end knows them: names, tasks, labels and tokenizers.

Contains no weights. Made at start-up, used on the event loop.
"""

from collections.abc import Container, Iterable, Iterator, Sequence

from app.bundle.files import Bundle
from app.bundle.manifest import Task
from app.errors import BundleError, NotFound, ValidationFailed
from app.tasks.base import Model
from app.text.tokenizer import Tokenizer


def check_tasks(bundles: Iterable[Bundle], tasks: Container[Task]) -> None:
    """Pass if this server has the tasks of all bundles.

    Raises:
        BundleError: a bundle is for another task.
    """
    for bundle in bundles:
        if bundle.manifest.task not in tasks:
            raise BundleError(
                f"Bundle {bundle.name} is for the task {bundle.manifest.task}, which this server does not have. "
                "Serve it with the release that exported it."
            )


def load_model(bundle: Bundle) -> Model:
    """Read the parts of a bundle that a front end needs, and check the tokenizer against the golden token ids.

    Raises:
        BundleError: a file is damaged, or this release of tokenizers returns other ids than at the export.
    """
    model = Model(bundle.name, bundle.manifest, Tokenizer(bundle))
    for i, case in enumerate(bundle.golden.cases):
        text = case.text if case.text_pair is None else (case.text, case.text_pair)
        [encoded] = model.tokenizer.encode([text])
        if encoded.input_ids.tolist() != list(case.input_ids):
            raise BundleError(
                f"The tokenizer of bundle {bundle.name} returns other token ids than at the export (golden case {i}). "
                "Export the model again with the model_export of this release."
            )
    return model


class Catalog:
    """Finds the model for a request."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, name: str) -> Model:
        """Return a model by name.

        Raises:
            NotFound: there is no model of that name.
        """
        if name not in self._models:
            raise NotFound(f"There is no such model. This server has: {_listed(list(self._models))}.")
        return self._models[name]

    def for_task(self, task: Task, name: str | None) -> Model:
        """Return the model for a request: the one it names, or the only one for `task`.

        Raises:
            NotFound: there is no model of that name, or none for this task.
            ValidationFailed: the request names no model and there are several.
        """
        able = [model for model in self if model.task == task]
        if name is not None:
            model = self.get(name)
            if model.task != task:
                raise NotFound(
                    f"That model does {model.task}, not {task}: post to /v1/{model.task}. "
                    f"Models for {task}: {_listed([other.name for other in able])}."
                )
            return model
        if not able:
            raise NotFound(f"This server has no model for {task}.")
        if len(able) > 1:
            raise ValidationFailed(
                f"model: this server has several models for {task}; name one of: "
                f"{_listed([model.name for model in able])}."
            )
        return able[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
