"""Refuse what stands in a file's place but cannot be read as one: libraries would report it as damaged, or wait forever."""

import stat
from pathlib import Path
from typing import Final

from model_export.errors import ExportError, few

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
"""How the text begins that Git LFS puts in the place of a large file until it is downloaded."""


def check_readable(*paths: Path, at_most_bytes: int | None = None) -> None:
    """Refuse files that exist but cannot be read.

    Args:
        paths: The files. One that is missing is no error.
        at_most_bytes: The largest size that such a file may have; None for any.

    Raises:
        ExportError: this user may not read one, or it is no file, too large, or a pointer of Git LFS.
    """
    pointers = []
    for path in paths:
        try:
            status = path.stat()  # of what a link leads to: opening a FIFO would wait for someone who writes into it
            if not stat.S_ISREG(status.st_mode):
                raise ExportError(
                    f"{path} is {_kind(status.st_mode)}, not a file. Put the checkpoint's own file there."
                )
            with path.open("rb") as stream:
                if stream.read(len(_POINTER)) == _POINTER:
                    pointers.append(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not path.is_symlink():
                continue
            raise ExportError(
                f"{path} is a link to a file that is not there. Download the checkpoint again, or copy it with what its links lead to."
            ) from error
        except OSError as error:
            raise ExportError(
                f"{path} cannot be read: {error.strerror}. Let the user that runs the export read it."
            ) from error
        if at_most_bytes is not None and status.st_size > at_most_bytes:
            raise ExportError(
                f"{path} has {status.st_size} bytes; {at_most_bytes} are the most that are read of such a file. "
                "Download the checkpoint again."
            )
    if pointers:
        raise ExportError(
            f"{pointers[0].parent} has pointers of Git LFS in the place of {few([path.name for path in pointers])}: the files "
            "themselves were not downloaded. Run 'git lfs install' and 'git lfs pull' in that folder."
        )


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
