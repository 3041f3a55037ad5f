"""The ports that the settings ask for."""

import socket
from collections.abc import Iterator, Sequence
from itertools import combinations

from app import __version__
from app.errors import StartupError
from app.http.listening.ports import Port, Ports, Purpose
from app.http.listening.tcp import bind, url_of
from app.http.listening.unix import SocketFile
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
    numbers = {
        "BERT_PORT": settings.port if settings.uds is None else None,
        "BERT_METRICS_PORT": settings.metrics_port,
        "BERT_ADMIN_PORT": settings.admin_port,
    }
    for (one, number), (other, same) in combinations(numbers.items(), 2):
        if number and number == same:
            raise StartupError(f"{one} and {other} are both {number}. Give each a port of its own.")
    bound: list[Port] = []
    try:
        bound.extend(_each(settings))
    except StartupError:
        Ports(bound).close()
        raise
    return Ports(bound)


def _each(settings: Settings) -> Iterator[Port]:
    yield _main(settings)
    if settings.metrics_port is not None:
        yield _other(settings, "metrics", settings.metrics_port, is_secure=False)
    if settings.admin_port is not None:
        yield _other(settings, "admin", settings.admin_port, is_secure=settings.ssl_certfile is not None)


def _main(settings: Settings) -> Port:
    file = None if settings.uds is None else SocketFile(settings.uds)
    sockets = bind(settings.host.split(","), settings.port) if file is None else [file.socket]
    is_secure = settings.ssl_certfile is not None and file is None  # nobody reads what passes through a file
    where = _urls(sockets, is_secure=is_secure) if file is None else f"unix:{settings.uds}"
    told = f"listening on {where} (version {__version__}, workers {settings.workers})"
    return Port("main", sockets, told, is_secure=is_secure, waits=settings.listen_when_ready, file=file)


def _other(settings: Settings, purpose: Purpose, port: int, *, is_secure: bool) -> Port:
    sockets = bind(settings.host.split(","), port)
    return Port(purpose, sockets, f"/{purpose} is on {_urls(sockets, is_secure=is_secure)}", is_secure=is_secure)


def _urls(sockets: Sequence[socket.socket], *, is_secure: bool) -> str:
    return ", ".join(url_of(one, "https" if is_secure else "http") for one in sockets)
