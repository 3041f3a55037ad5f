"""Remove the folders that killed exports left: their lock files are not locked any more."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

LOCK_FILE: Final = "export.lock"

_RANDOM: Final = r"[a-z0-9_]{8}"
"""What tempfile puts at the end of a name."""


@contextmanager
def locked(staging: Path) -> Iterator[None]:
    """Hold a locked file in a folder until the block ends; if the process is killed, the system unlocks the file.

    The file gets its name after it is locked, so an unlocked one belongs to a dead process. Where the system or the file
    system has no locks, there is no file, and the folder is never removed.
    """
    if sys.platform == "win32":  # no flock, and no open file can be removed
        yield
        return
    unnamed = staging / f"{LOCK_FILE}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with suppress(OSError):  # what cannot be renamed or removed while it is open is removed with the folder
            if _lock(descriptor):
                unnamed.rename(staging / LOCK_FILE)
            else:
                unnamed.unlink()
        yield
    finally:
        os.close(descriptor)


def remove_killed_exports(target: Path) -> None:
    """Remove the folders of exports to `target` that were killed; what cannot be removed stays.

    A folder without a lock file stays too: it may be a backup, or belong to an export that is just beginning.
    """
    name = re.compile(re.escape(f".{target.name}.") + _RANDOM)
    with suppress(OSError):
        for staging in list(target.parent.iterdir()):
            if name.fullmatch(staging.name) and not staging.is_symlink():
                with suppress(OSError):
                    _remove_if_unlocked(staging, target)


def _remove_if_unlocked(staging: Path, target: Path) -> None:
    descriptor = os.open(staging / LOCK_FILE, os.O_RDWR)
    try:
        if not _lock(descriptor):
            return
        old = staging / f"{target.name}.old"
        # Where names cannot be exchanged, a process may be killed between its two renames: put the old bundle back.
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Return whether the file could be locked. Unlike process ids, locks show processes in other containers."""
    if sys.platform == "win32":
        return False
    import fcntl  # noqa: PLC0415  # not everywhere

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
