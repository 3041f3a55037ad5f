"""The checksum of a manifest, which is within it: no bit of the file can change unseen.

It is the sha256 of the file with 64 zeros in its place, so that any program can compute it from the bytes alone.
"""

import hashlib
import re
from typing import Final

KEY: Final = "checksum"
_WRITTEN: Final = re.compile(rf'"{KEY}": "([0-9a-f]{{64}})"'.encode())
_BLANK: Final = f'"{KEY}": "{"0" * 64}"'


def sealed(manifest: str) -> str:
    """Return the text of a manifest, a JSON object of at least one key and no checksum, with its checksum as the last key."""
    blank = f"{manifest.rstrip().removesuffix('}').rstrip()},\n  {_BLANK}\n}}"
    return blank.replace(_BLANK, f'"{KEY}": "{_checksum(blank.encode())}"')


def is_intact(manifest: bytes) -> bool:
    """Return whether a manifest that has a checksum is as it was written."""
    written = _WRITTEN.findall(manifest)
    return len(written) == 1 and written[0].decode() == _checksum(_WRITTEN.sub(_BLANK.encode(), manifest))


def _checksum(blank: bytes) -> str:
    return hashlib.sha256(blank).hexdigest()
