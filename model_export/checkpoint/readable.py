"""Tell a file that may not be read from one that is missing or damaged: the libraries that read them mix these up."""

from pathlib import Path

from model_export.errors import ExportError


def check_readable(*paths: Path) -> None:
    """Pass if each of these files can be read, or is not there.

    Raises:
        ExportError: the system does not let this user read one.
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
