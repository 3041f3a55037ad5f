"""Refuse files that this user may not read: the libraries that read them report them as missing or damaged."""

from pathlib import Path

from model_export.errors import ExportError


def check_readable(*paths: Path) -> None:
    """Refuse files that exist but cannot be read.

    Raises:
        ExportError: one of them cannot.
    """
    for path in paths:
        try:
            path.open("rb").close()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ExportError(
                f"{path} cannot be read: {error.strerror}. Let the user that runs the export read it."
            ) from error
