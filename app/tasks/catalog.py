"""The served models, as a front end knows them: names, tasks, labels and tokenizers.

Contains no weights. Made at start-up, used on the event loop.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from app import tasks as package  # which imports this module: its handlers are there when it is called
from app.bundle.files import Bundle, Skipping, skipping_none
from app.bundle.manifest import MANIFEST_FILE, Task
from app.bundle.panics import panics_as_errors
from app.errors import BundleError, NotFound, NotReady, StartupError, ValidationFailed
from app.tasks.base import Model, TaskHandler
from app.tasks.golden import replay_answers
from app.text.tokenizer import Tokenizer

Handler = TaskHandler[Any, Any, Any]


def check_models(
    bundles: list[Bundle],
    tasks: Mapping[Task, Handler],
    defaults: Iterable[tuple[str, str]],
    skipping: Skipping = skipping_none,
    bad: Collection[str] = (),
) -> dict[Task, str]:
    """Pass if this server has a task for every bundle; return the default model of each task that has one.

    Args:
        bundles: Those whose check, in the context of `skipping`, fails are taken out.
        tasks: Of this server.
        defaults: Tasks and the names of models. A name without a task is for what the model was exported for; if it is not
            served, it is left out, as a deployment names the model that it is about to serve.
        skipping: See `find_bundles`.
        bad: The names of bundles that are not served, some of which may be defaults.

    Raises:
        BundleError: a bundle is for another task.
        StartupError: a default is for no task, names no bundle that does it, or is the second of a task.
    """
    for bundle in list(bundles):
        if not any(handler.serves(bundle.manifest) for handler in tasks.values()):
            bundles.remove(bundle)
            with skipping(bundle.name):
                raise BundleError(
                    f"Bundle {bundle.name} is for the task {bundle.manifest.task}, which this server does not have. "
                    "Serve it with the release that exported it."
                )
    return default_models(bundles, tasks, defaults, bad)


def default_models(
    served: Sequence[Bundle | Model],
    tasks: Mapping[Task, Handler],
    defaults: Iterable[tuple[str, str]],
    absent: Collection[str],
) -> dict[Task, str]:
    """Return the default model of each task that has one; `absent` names models that are not served, and may be defaults.

    Raises:
        StartupError: a default is for no task, names no bundle that does it, or is the second of a task.
    """
    own = {one.name: one.manifest.task for one in served}
    by_task: dict[Task, str] = {}
    for given, name in defaults:
        task = given or own.get(name)
        if task is None:
            continue
        if task not in tasks:
            raise StartupError(f"BERT_DEFAULT_MODELS: there is no task {task}. Tasks are: {', '.join(tasks)}.")
        able = [bundle.name for bundle in served if tasks[task].serves(bundle.manifest)]
        if name not in able and name not in absent:
            raise StartupError(
                f"BERT_DEFAULT_MODELS: {name} is not served, or does not do {task}. Models for {task}: {_listed(able)}."
            )
        if by_task.setdefault(task, name) != name:
            raise StartupError(
                f"BERT_DEFAULT_MODELS: {by_task[task]} and {name} are both for {task}. Name one of them."
            )
    return by_task


def load_model(bundle: Bundle) -> Model:
    """Read the parts of a bundle that a front end needs, and check them against the golden answers.

    Raises:
        BundleError: a file is damaged, or of another model than the others, or this release of tokenizers returns other ids than
            at the export.
    """
    manifest = bundle.manifest
    tokenizer = bundle.path(manifest.tokenizer)
    try:
        with panics_as_errors():
            model = Model(bundle.name, manifest, Tokenizer(bundle), bundle.key, bundle.written_at, bundle.identity[:12])
            _check_tokenizer(bundle, model)
    except (BundleError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise BundleError(
            f"{tokenizer} is not a tokenizer that this server can read: {reason}. Export the model again."
        ) from error
    handler = package.TASKS.get(manifest.task)
    if handler is not None:  # or `check_models` has the word
        try:
            replay_answers(model, handler, bundle.golden.cases)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise BundleError(
                f"{bundle.folder / MANIFEST_FILE} and {bundle.path(manifest.golden)} are not of one model: {reason}. "
                "Export the model again."
            ) from error
    return model


def _check_tokenizer(bundle: Bundle, model: Model) -> None:
    """Pass if every token has an embedding, and the golden texts have their ids."""
    path, vocab_size = bundle.path(bundle.manifest.tokenizer), bundle.manifest.architecture.vocab_size
    if model.tokenizer.largest_id >= vocab_size:
        raise BundleError(
            f"{path} has token ids up to {model.tokenizer.largest_id}, but the model has {vocab_size} embeddings: it is another "
            "model's. Export the model again."
        )
    mask = bundle.manifest.special_tokens.mask
    if bundle.manifest.task == "fill-mask" and (mask is None or model.tokenizer.token(mask.id) != mask.text):
        raise BundleError(f"{path} does not have the mask token of the manifest. Export the model again.")
    for i, case in enumerate(bundle.golden.cases):
        text = case.text if case.text_pair is None else (case.text, case.text_pair)
        [encoded] = model.tokenizer.encode([text])
        if encoded.input_ids.tolist() != list(case.input_ids) or encoded.token_type_ids.tolist() != list(
            case.token_type_ids
        ):
            raise BundleError(
                f"The tokenizer of bundle {bundle.name}, {path}, returns other token ids than at the export (golden case {i}). "
                "Export the model again with the model_export of this release."
            )


class Catalog:
    """Finds the model for a request."""

    def __init__(
        self,
        models: Iterable[Model],
        defaults: Mapping[Task, str] | None = None,
        bad: Collection[str] = (),
        *,
        unloaded: Collection[str] = (),
        loading: Collection[str] = (),
    ) -> None:
        """Take the models, and what else there is to say.

        Args:
            models: Those that the engine has, or will have.
            defaults: For tasks the name of the model that answers requests without one.
            bad: The names of bundles that cannot be loaded.
            unloaded: Those that an operator has unloaded.
            loading: Those that are not there until another bundle is loaded in their place.
        """
        self._models = {model.name: model for model in models}
        self._defaults = defaults or {}
        self._bad = frozenset(bad)
        self._unloaded = frozenset(unloaded)
        self._loading = frozenset(loading)
        self._unnamed: dict[Task, Model] = {}
        """The model for a request that names none, once it has been found."""

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, name: str) -> Model:
        """Return a model by name.

        Raises:
            NotFound: there is no model of that name, or it was unloaded.
            NotReady: its bundle cannot be loaded, or is being loaded.
        """
        if name in self._loading:
            raise NotReady("That model is being loaded. Retry in a few seconds.")
        if name in self._unloaded:
            raise NotFound("That model was unloaded by an operator of this server, who can load it again.")
        if name in self._bad:
            raise NotReady("That model could not be loaded; the log of the service says why. Other models are served.")
        if name not in self._models:
            raise NotFound(f"There is no such model. This server has: {_listed(list(self._models))}.")
        return self._models[name]

    def is_default(self, model: Model) -> bool:
        """Return whether a model answers requests for a task that name none, by setting."""
        return model.name in self._defaults.values()

    def for_task(self, handler: Handler, name: str | None) -> Model:
        """Return the model for a request: the one it names, else the task's default, or the only one that does the task.

        Of several models without a default, those that were exported for the task go before others that can do it, too, and
        of these, one that is the default of another task goes first.

        Raises:
            NotFound: there is no model of that name, or none for this task.
            ValidationFailed: the request names no model and there are several.
        """
        task = handler.task
        if name is None:
            if task not in self._unnamed:
                default = self._defaults.get(task)
                self._unnamed[task] = self._only(handler) if default is None else self.get(default)
            return self._unnamed[task]
        model = self.get(name)
        if not handler.serves(model.manifest):
            raise NotFound(
                f"That model does {model.task}, not {task}. "
                f"Models for {task}: {_listed([other.name for other in self.all_for(handler)])}."
            )
        return model

    def _only(self, handler: Handler) -> Model:
        task = handler.task
        able = self.all_for(handler)
        if not able:
            for name in self._loading:
                self.get(name)  # says that it is being loaded: it may be for this task
            for model in self:
                if handler.serves(model.manifest):
                    self.get(model.name)  # says that it could not be loaded
            raise NotFound(f"This server has no model for {task}.")
        able = [model for model in able if model.task == task] or able
        if len(able) > 1:
            defaults = [model for model in able if model.name in self._defaults.values()]
            if len(defaults) == 1:
                return defaults[0]
            raise ValidationFailed(
                f"model: this server has several models for {task}; name one of: "
                f"{_listed([model.name for model in able])}."
            )
        return able[0]

    def for_any(self, handlers: Sequence[Handler]) -> tuple[Handler, Model]:
        """Return the task and the model for a request that names none, and that each of these tasks could answer.

        Raises:
            NotFound: there is no model for any of the tasks.
            ValidationFailed: there are models for several of them, and not just one of these has a default.
        """
        able = [handler for handler in handlers if self.all_for(handler)]
        with_default = [handler for handler in able if handler.task in self._defaults]
        if len(able) > 1 and len(with_default) != 1:
            names = dict.fromkeys(model.name for handler in able for model in self.all_for(handler))
            raise ValidationFailed(
                f"model: this server has several models for such inputs; name one of: {_listed(list(names))}."
            )
        [handler, *_] = with_default if len(able) > 1 else able or handlers
        return handler, self.for_task(handler, None)

    def all_for(self, handler: Handler) -> list[Model]:
        """Return every model that can do a task, and is served."""
        return [model for model in self if handler.serves(model.manifest) and model.name not in self._bad]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
