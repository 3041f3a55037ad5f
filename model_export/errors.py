"""What stops an export."""

import textwrap
from collections.abc import Sequence
from typing import Final

_LONGEST: Final = 240
_FEW: Final = 4


class ExportError(Exception):
    """A checkpoint cannot be exported, or a bundle failed its checks. The message says why and what to do."""


def one_line(error: Exception) -> str:
    """Return what another library says, on one line that is not too long."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return textwrap.shorten(text, _LONGEST)


def few(names: Sequence[str]) -> str:
    """Return a list of names that is not too long for a sentence."""
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def of_system(error: OSError) -> str:
    """Return what the system says of a file, as a sentence; what is written does not always tell which file it is."""
    if error.strerror is None:
        return one_line(error)
    return f"{error.filename or 'A file of the export'} cannot be read or written: {error.strerror}."
