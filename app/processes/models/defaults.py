"""The models that the settings name, and those that requests need not name."""

import logging
from collections.abc import Collection, Iterable, Mapping

from app.bundle.files import Bundle
from app.bundle.manifest import Task
from app.processes.models.bad_bundles import BadBundles
from app.settings import Settings
from app.tasks import TASKS
from app.tasks.catalog import check_models

log = logging.getLogger(__name__)


def check_defaults(settings: Settings, bundles: list[Bundle], bad: BadBundles) -> None:
    """Take bad bundles out of the list, and log what is wrong: once, at the launch, and not by every front end.

    Raises:
        StartupError: the settings name a model that is not there.
        BundleError: a bundle is bad and not skipped, or all are.
    """
    if not bundles and not bad.names:
        log.warning("there is no bundle in %s: waiting for the first one, which is to be loaded", settings.models)
    absent = settings.models_named if not bundles else bad.names
    defaults = check_models(bundles, TASKS, settings.default_model_pairs, bad.skipping, absent)
    bad.refuse_none(bundles)
    _log_defaults(bundles, settings.default_model_pairs, defaults)


def _log_defaults(
    bundles: Collection[Bundle], defaults: Iterable[tuple[str, str]], by_task: Mapping[Task, str]
) -> None:
    """Log what requests that name no model miss: a default that is not served, and one for a task of several models."""
    served = [bundle.name for bundle in bundles]
    for task, name in defaults:
        if not task and name not in served and served:  # else there is no model yet
            log.warning("BERT_DEFAULT_MODELS: %s is not served. Models are: %s.", name, ", ".join(served))
    for task in sorted({bundle.manifest.task for bundle in bundles} - by_task.keys()):
        able = [bundle.name for bundle in bundles if bundle.manifest.task == task]
        if len(able) > 1:
            log.info(
                "requests for %s must name one of its models, %s: there is no default (BERT_DEFAULT_MODELS)",
                *(task, ", ".join(able)),
            )
