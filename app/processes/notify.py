"""What systemd, or another service manager with its protocol, is told: sd_notify(3).

A datagram of lines to a socket. The package that does it, sdnotify, has had no release since 2017.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Final

log = logging.getLogger(__name__)

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = ("WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """Tells the manager of this service what it does; nothing where there is none."""

    def __init__(self, address: str | None = None, alive_every_s: float | None = None) -> None:
        """Send nothing yet.

        Args:
            address: Of the manager's socket: a path, or an abstract name after @.
            alive_every_s: How often it is to be told that this process works; None for never.
        """
        self._address: Final = address
        self._alive_every_s: Final = alive_every_s
        self._is_stopping = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "ServiceManager":
        """Return the manager that the environment names, and remove it there: processes that this one starts have none."""
        address = environ.pop(_SOCKET, None)
        watchdog_us, pid = (environ.pop(name, "") for name in _WATCHDOG)
        if not watchdog_us.isdecimal() or pid not in {"", str(os.getpid())}:
            return cls(address)
        # Half of the time after which this process is killed, as sd_watchdog_enabled(3) recommends.
        return cls(address, int(watchdog_us) / 2e6)

    def status(self, text: str) -> None:
        """Tell what the service does."""
        self._tell(f"STATUS={text}")

    def ready(self) -> None:
        """Tell that the service answers, for the first time or again; nothing once it stops."""
        if not self._is_stopping:
            self._tell("READY=1", "STATUS=ready")

    async def reread(self, work: Callable[[], Awaitable[None]]) -> None:
        """Tell that the service reads anew what has changed, until that is done."""
        self.rereading()
        try:
            await work()
        finally:
            self.ready()

    def rereading(self) -> None:
        """Tell that the service reads anew what has changed; `ready` tells the end."""
        if not self._is_stopping:
            # In microseconds, by which the manager knows that this is what it asked for last.
            since = f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
            self._tell("RELOADING=1", since, "STATUS=reading anew what has changed")

    def stopping(self) -> None:
        """Tell that the service finishes what it accepted."""
        self._is_stopping = True
        self._tell("STOPPING=1", "STATUS=finishing what was accepted")

    async def keep_alive(self) -> None:
        """Tell that this event loop comes round, until cancelled."""
        while self._address is not None and self._alive_every_s:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._alive_every_s)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("the service manager at %s cannot be told %s: %s", _SOCKET, lines[0], error.strerror or error)


NO_MANAGER: Final = ServiceManager()
