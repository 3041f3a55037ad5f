"""Certificates made with openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

SUBJECT_ALTERNATIVES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Certificate:
    path: Path
    key: Path


class Authority:
    """Signs certificates, in a folder of its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.path, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._openssl("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.path, "-subj", f"/CN={name}")

    def sign(
        self, name: str, days: int = 2, password: str | None = None, alternatives: str = SUBJECT_ALTERNATIVES
    ) -> Certificate:
        """Return a certificate of a name, for this machine; one that has expired has less than no days."""
        path, key, request = (self._folder / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        protect = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        make = [one for one in _NEW_KEY if one != "-nodes"]
        self._openssl(
            *("req", *make, *protect, "-keyout", key, "-out", request),
            *("-subj", f"/CN={name}", "-addext", alternatives),
        )
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.path, "-CAkey", self._key, "-copy_extensions", "copy"),
            *("-days", days, "-out", path),
        )
        return Certificate(path, key)

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
