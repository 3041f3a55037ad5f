"""The error that stops an export, and what its messages are made of."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.bundle import BundleError
from app.bundle.panics import panics_as_errors

_LONGEST: Final = 240
_LONGEST_VALUE: Final = 60
_FEW: Final = 4


class ExportError(Exception):
    """A checkpoint cannot be exported, or a bundle failed its checks. The message says why and what to do."""


class InaccurateVariant(ExportError):
    """A variant's answers are not accurate enough. `finding` says why, and the message also what to do."""

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(f"{finding} {remedy}")
        self.finding = finding


def one_line(error: Exception) -> str:
    """Return the message of another library, on one line that is not too long."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    text = text.encode(errors="backslashreplace").decode()
    return textwrap.shorten(text, _LONGEST)


def shown(value: object) -> str:
    """Return a value of a checkpoint's file for a message: on one line, not too long, with escapes for what is no letter."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def few(names: Sequence[str]) -> str:
    """Return a list of names that is not too long for a sentence."""
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def system_message(error: OSError) -> str:
    """Return the system's message on a file, as a sentence; the error does not always name the file."""
    if error.strerror is None:
        return one_line(error)
    return f"{error.filename or 'A file of the export'} cannot be read or written: {error.strerror}."


@contextmanager
def of_one_model(folder: Path) -> Iterator[None]:
    """Run what reads the files of a bundle: what only fails because they do not fit each other is said so.

    Raises:
        BundleError, ExportError: as raised within.
        ExportError: anything else failed.
    """
    try:
        with panics_as_errors():
            yield
    except (BundleError, ExportError):
        raise
    except Exception as error:
        raise ExportError(
            f"The files of {folder} are not of one model, or damaged ({one_line(error)}). Export the model again."
        ) from error
