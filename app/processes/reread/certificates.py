"""The server's certificate, and whose certificates of callers it believes; read again when their files change."""

import logging
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app.errors import StartupError
from app.http.listening.tls import Tls
from app.processes.reread.changes import Changes
from app.settings import Settings

log = logging.getLogger(__name__)

_REQUIREMENTS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def open_certificates(settings: Settings) -> "Certificates | None":
    """Return the certificates that the settings ask for; None without TLS.

    Raises:
        StartupError: a file cannot be used, or a setting is missing.
    """
    if settings.ssl_certfile is None:
        others = ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_ciphers")
        if settings.ssl_cert_reqs != "none" or any(getattr(settings, name) is not None for name in others):
            raise StartupError("A setting of TLS is set and there is no certificate. Set BERT_SSL_CERTFILE.")
        return None
    if settings.uds is not None and settings.admin_port is None:
        raise StartupError("BERT_SSL_CERTFILE is set, and a Unix socket speaks no TLS. Unset it, or BERT_UDS.")
    if settings.ssl_cert_reqs == "none" and settings.ssl_ca_certs is not None:
        raise StartupError(
            "BERT_SSL_CA_CERTS is set, and BERT_SSL_CERT_REQS lets callers in without a certificate. Set it to required or optional."
        )
    if settings.ssl_cert_reqs != "none" and settings.ssl_ca_certs is None:
        raise StartupError(
            "BERT_SSL_CERT_REQS asks for certificates of callers, and nothing says which. Set BERT_SSL_CA_CERTS."
        )
    return Certificates(settings, settings.ssl_certfile)


class Certificates:
    """What is in the files."""

    def __init__(self, settings: Settings, certificate: Path) -> None:
        """Read them.

        Raises:
            StartupError: one cannot be used.
        """
        self._certificate: Final = certificate
        self._key: Final = settings.ssl_keyfile
        self._authorities: Final = settings.ssl_ca_certs
        password = settings.ssl_keyfile_password
        self._password: Final = "" if password is None else password.get_secret_value()
        self._requirement: Final = _REQUIREMENTS[settings.ssl_cert_reqs]
        self._ciphers: Final = settings.ssl_ciphers
        self._within_s: Final = settings.read_timeout_s
        self._changes: Final = Changes(self._certificate, self._key, self._authorities)
        self._context = self._read()
        self._tls: Tls | None = None

    def tls(self, failed: Callable[[], None]) -> Tls:
        """Return what makes connections by the certificates as they are at any time; `failed` is called when a handshake fails."""
        self._tls = Tls(self._context, self._within_s, failed)
        return self._tls

    def look(self) -> None:
        """Read the files if they are others than they were. Wrong ones change nothing."""
        context = self._changes.read(self._read, "The certificate that was read before stays in force.")
        if context is None:
            return
        self._context = context
        if self._tls is not None:
            self._tls.context = context

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.verify_mode = self._requirement
        if self._ciphers is not None:
            try:
                context.set_ciphers(self._ciphers)
            except (OSError, ValueError) as error:
                raise StartupError(
                    "BERT_SSL_CIPHERS names no cipher that OpenSSL has. `openssl ciphers` lists them."
                ) from error
        for variable, path in (("BERT_SSL_CERTFILE", self._certificate), ("BERT_SSL_KEYFILE", self._key)):
            if path is not None:
                _check_readable(variable, path)
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._certificate, self._key, lambda: self._password)
        except (OSError, ValueError) as error:
            files = self._certificate if self._key is None else f"{self._certificate} with the key {self._key}"
            raise StartupError(
                f"BERT_SSL_CERTFILE cannot be used: {files}: {_reason(error)}. It should be PEM, the server's certificate "
                "first, with the key in it or in BERT_SSL_KEYFILE, whose password, if it has one, is in BERT_SSL_KEYFILE_PASSWORD."
            ) from error
        if self._authorities is not None:
            _check_readable("BERT_SSL_CA_CERTS", self._authorities)
            try:
                context.load_verify_locations(self._authorities)
            except (OSError, ValueError) as error:
                raise StartupError(
                    f"BERT_SSL_CA_CERTS cannot be used: {self._authorities}: {_reason(error)}. It should be certificates in PEM."
                ) from error
        return context


def _check_readable(variable: str, path: Path) -> None:
    """Read a file: OpenSSL does not say which one it cannot. A pipe could be read only once, and an unwritten one never."""
    try:
        if stat.S_ISFIFO(path.stat().st_mode):
            raise StartupError(f"{variable} is a pipe, and is read more than once: {path}. Write it into a file.")
        path.read_bytes()
    except OSError as error:
        raise StartupError(f"{variable} cannot be read: {path}: {error.strerror}.") from error


def _reason(error: OSError | ValueError) -> str:
    """Return OpenSSL's reason in words."""
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else "it is not what OpenSSL expects"
