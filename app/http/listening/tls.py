"""TLS of connections that have been accepted: the handshake, which may fail or take long, and who a caller's certificate names."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

log = logging.getLogger(__name__)

_LONGEST: Final = 256
"""Characters of a name in the log."""


class Tls:
    """Makes connections of accepted sockets, by the certificates that count at that time."""

    def __init__(self, context: ssl.SSLContext, within_s: float, failed: Callable[[], None]) -> None:
        """Take how callers are met.

        Args:
            context: Of the server's side. Another one may take its place: it counts for callers that come later.
            within_s: How long a handshake may take, and how long a caller to take what is written when its connection is closed.
            failed: Called for each handshake that does not succeed.
        """
        self.context = context
        self._within_s: Final = within_s
        self._failed: Final = failed

    async def connect(self, make_protocol: Callable[[], asyncio.Protocol], connection: socket.socket) -> None:
        """Shake hands, then connect the protocol; close the connection if that fails.

        Whoever scans ports makes many fail, so that is counted, and logged at level `debug` only.
        """
        caller = _address_of(connection) if log.isEnabledFor(logging.DEBUG) else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make_protocol,
                connection,
                ssl=self.context,
                ssl_handshake_timeout=self._within_s,
                ssl_shutdown_timeout=self._within_s,
            )
        except (OSError, ValueError) as error:  # of the connection, of TLS, of time, or of a certificate's text
            self._failed()
            log.debug("a TLS handshake failed: %s", str(error) or "the caller left", extra={"client": caller})


def _address_of(connection: socket.socket) -> str | None:
    try:
        return str(connection.getpeername()[0]).removeprefix("::ffff:")  # of a socket for both families
    except OSError:  # gone by now
        return None


def name_in(certificate: Mapping[str, Any] | None) -> str | None:
    """Return who a caller's certificate names, for the log: its common name, else its first alternative name."""
    if not certificate:
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    names += [value for _, value in certificate.get("subjectAltName", ())]
    if not names:
        return None
    return "".join(letter if letter.isprintable() else "?" for letter in names[0][:_LONGEST])
