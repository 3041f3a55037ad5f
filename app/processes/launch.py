"""The start of the server: log, ports and bundles, and the models that are opened while the rest is imported."""

import logging
import os

from app.bundle.files import find_bundles
from app.processes.core_dumps import leave_no_core
from app.processes.exit_status import ExitStatus, run
from app.processes.garbage_collection import freeze_imports
from app.processes.models.ahead import Ahead
from app.processes.models.bad_bundles import bad_bundles
from app.processes.notify import ServiceManager
from app.processes.ports import bind_ports
from app.settings import Settings, unknown_variables
from app.telemetry.log_writer import write_in_background
from app.telemetry.logs import configure
from app.telemetry.otel import check

log = logging.getLogger(__name__)


def launch(settings: Settings) -> int:
    """Serve until a signal; return the exit status."""
    write_in_background()
    configure(settings.log_level, settings.log_format)
    leave_no_core()
    # Those that look like a setting have ended the start in `__main__`; these may be another program's.
    if unknown := unknown_variables(os.environ):
        log.warning("not a setting of this server, and ignored: %s", ", ".join(unknown))
    return run(_serve(settings, ServiceManager.from_environment(os.environ)))


async def _serve(settings: Settings, manager: ServiceManager) -> ExitStatus:
    # First of all, so that a port in use ends the start at once, and /livez is answered while models load.
    ports = bind_ports(settings)
    ports.open(is_ready=False)
    try:
        if settings.api_key is not None and settings.api_key_file is not None:
            log.warning(
                "BERT_API_KEY and BERT_API_KEY_FILE are both set: the key of the file counts. Unset BERT_API_KEY."
            )
        check(settings.collector)
        bad = bad_bundles(settings)
        bundles = find_bundles(settings.models, bad.skipping, may_be_empty=settings.waits_for_models)
        # Of several processes, the engine's opens them.
        ahead = Ahead(settings, bundles if settings.workers == 1 else ())
        # HTTP takes a third of a second to import: after models begin to open.
        from app.http.connections.server import allow_connections  # noqa: PLC0415
        from app.processes.alone import serve_alone  # noqa: PLC0415
        from app.processes.models.defaults import check_defaults  # noqa: PLC0415
        from app.processes.several import serve_several  # noqa: PLC0415

        freeze_imports()
        allow_connections()
        check_defaults(settings, bundles, bad)
        manager.status(f"loading {', '.join(bundle.name for bundle in bundles)}" if bundles else "waiting for a model")
        if settings.workers == 1:
            return await serve_alone(settings, ports, bundles, ahead, bad=bad, manager=manager)
        return await serve_several(settings, ports, manager)
    finally:
        ports.close()
