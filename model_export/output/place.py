"""Check the option --output before the work begins."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app.bundle.manifest import MANIFEST_FILE
from model_export.errors import ExportError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _is_bundle(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).is_file()


def check_output(output: Path, what: str = "a bundle", is_one: Callable[[Path], bool] = _is_bundle) -> None:
    """Refuse a path where no folder can be put: an invalid name, no permission, or something else in its place.

    Args:
        output: The path.
        what: What the folder is, with its article.
        is_one: Whether a folder that is not empty is one, and may be replaced.

    Raises:
        ExportError: none can be written there.
    """
    if not _NAME.fullmatch(output.name):
        raise ExportError(
            f"--output {output} does not end in a valid name of {what}: letters, digits, dots, dashes and underscores, "
            "starting with a letter or a digit."
        )
    try:
        _check_writable(output)
        is_file = output.exists() and not output.is_dir()
        is_other = output.is_dir() and any(output.iterdir()) and not is_one(output)
    except OSError as error:
        raise ExportError(
            f"--output {output} cannot be written: {error.filename}: {error.strerror}. "
            "Let the user that runs this command write there, or choose another folder."
        ) from error
    if is_file:
        raise ExportError(f"--output {output} is a file. Choose the name of a folder.")
    if is_other:
        raise ExportError(
            f"--output {output} is not empty and is not {what}. Choose another name, or empty the folder."
        )
    if os.path.ismount(output):  # Path.is_mount follows links
        raise ExportError(
            f"--output {output} is where a file system is mounted, which no folder can take the place of. "
            f"Choose one in it: {output}/NAME."
        )


def _check_writable(output: Path) -> None:
    """Make a folder in the nearest parent that exists, and remove it: permissions do not show a read-only file system.

    Raises:
        OSError: it cannot be made; with the name of the parent.
    """
    parent = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=parent):
            pass
    except OSError as error:
        error.filename = str(parent)
        raise
