"""Serve as the settings say: in this process alone, or with front ends and an engine in processes of their own."""

import logging
from collections.abc import Collection, Iterable, Mapping

from app.bundle.files import Bundle
from app.bundle.manifest import Task
from app.http.connections.server import allow_connections
from app.http.dialects import chosen
from app.http.listening.ports import Ports
from app.processes.alone import serve_alone
from app.processes.engine_process import serve_engine
from app.processes.exit_status import ExitStatus
from app.processes.front_end_process import serve_front_end
from app.processes.models.ahead import Ahead
from app.processes.models.bad_bundles import BadBundles
from app.processes.notify import ServiceManager
from app.processes.reread.certificates import open_certificates
from app.processes.reread.keys import open_admin_key, open_callers_keys
from app.processes.supervision.supervisor import Supervisor
from app.settings import Settings
from app.tasks import TASKS
from app.tasks.catalog import check_models

log = logging.getLogger(__name__)


async def serve(
    settings: Settings,
    ports: Ports,
    bundles: list[Bundle],
    ahead: Ahead,
    *,
    bad: BadBundles,
    manager: ServiceManager,
) -> ExitStatus:
    """Serve the bundles, but for bad ones that are skipped, until a signal; return the exit status.

    Raises:
        StartupError: the service cannot start as it is set up.
        EngineLost: the device failed while the models were loading.
    """
    allow_connections()
    if settings.api_key is not None and settings.api_key_file is not None:
        log.warning("BERT_API_KEY and BERT_API_KEY_FILE are both set: the key of the file counts. Unset BERT_API_KEY.")
    if not bundles and not bad.names:
        log.warning("there is no bundle in %s: waiting for the first one, which is to be loaded", settings.models)
    absent = settings.models_named if not bundles else bad.names
    # What is wrong is logged once, here, and not by every front end.
    defaults = check_models(bundles, TASKS, settings.default_model_pairs, bad.skipping, absent)
    bad.refuse_none(bundles)
    _log_defaults(bundles, settings.default_model_pairs, defaults)
    manager.status(f"loading {', '.join(bundle.name for bundle in bundles)}" if bundles else "waiting for a model")
    if settings.workers == 1:
        return await serve_alone(settings, ports, bundles, ahead, bad=bad, manager=manager)
    chosen(settings.apis)
    open_callers_keys(settings)
    open_admin_key(settings)
    open_certificates(settings)
    return await Supervisor(settings, ports, serve_engine, serve_front_end, manager).run()


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
