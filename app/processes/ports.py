"""The ports that the settings ask for."""

from app import __version__
from app.errors import StartupError
from app.http.listening.ports import Port, Ports, Purpose
from app.http.listening.tcp import bind, url_of
from app.settings import Settings


def bind_ports(settings: Settings) -> Ports:
    """Bind all ports; nobody can connect yet.

    Raises:
        StartupError: one is taken, or cannot be as it is set up.
    """
    if settings.admin_port is not None and settings.admin_key is None and settings.admin_key_file is None:
        raise StartupError(
            "BERT_ADMIN_PORT is set and there is no admin key. Set BERT_ADMIN_KEY or BERT_ADMIN_KEY_FILE."
        )
    ports = [
        _bind_port(
            settings, "main", settings.port, "listening on", f" (version {__version__}, workers {settings.workers})"
        )
    ]
    if settings.metrics_port is not None:
        ports.append(_bind_port(settings, "metrics", settings.metrics_port, "/metrics is on"))
    if settings.admin_port is not None:
        ports.append(_bind_port(settings, "admin", settings.admin_port, "/admin is on"))
    return Ports(ports)


def _bind_port(settings: Settings, purpose: Purpose, port: int, where: str, note: str = "") -> Port:
    is_secure = settings.ssl_certfile is not None and purpose != "metrics"
    sockets = bind(settings.host.split(","), port)
    urls = ", ".join(url_of(one, "https" if is_secure else "http") for one in sockets)
    return Port(purpose, sockets, f"{where} {urls}{note}", is_secure=is_secure)
