"""`--workers N`: front ends and an engine, each in a process of its own."""

from app.http.dialects import chosen
from app.http.listening.ports import Ports
from app.processes.engine_process import serve_engine
from app.processes.exit_status import ExitStatus
from app.processes.front_end_process import serve_front_end
from app.processes.notify import ServiceManager
from app.processes.reread.certificates import open_certificates
from app.processes.reread.keys import open_admin_key, open_callers_keys
from app.processes.supervision.supervisor import Supervisor
from app.settings import Settings


async def serve_several(settings: Settings, ports: Ports, manager: ServiceManager) -> ExitStatus:
    """Supervise the processes until a signal; return the exit status.

    Raises:
        StartupError: what the processes would need is not there.
    """
    chosen(settings.apis)
    open_callers_keys(settings)
    open_admin_key(settings)
    open_certificates(settings)
    return await Supervisor(settings, ports, serve_engine, serve_front_end, manager).run()
