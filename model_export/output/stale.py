"""Take away what killed processes left behind: folders that hold a lock file which no living process holds."""

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
def held(staging: Path) -> Iterator[None]:
    """Mark a folder as that of this process until the block ends, however it ends: the system lets go of the lock.

    The file gets its name when it is locked, so that whoever finds it unlocked knows that its process is gone. Where the
    system or the file system has no locks, there is no file, and the folder is never taken for a leftover.
    """
    if sys.platform == "win32":  # no flock, and no open file can be removed
        yield
        return
    unnamed = staging / f"{LOCK_FILE}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if _lock(descriptor):
            unnamed.rename(staging / LOCK_FILE)
        else:
            unnamed.unlink()
        yield
    finally:
        os.close(descriptor)


def sweep(target: Path) -> None:
    """Remove the folders of exports to `target` that were killed; what cannot be removed stays.

    A folder without a lock file may be anybody's: a backup, or that of an export which is just beginning.
    """
    name = re.compile(re.escape(f".{target.name}.") + _RANDOM)
    with suppress(OSError):
        for staging in list(target.parent.iterdir()):
            if name.fullmatch(staging.name) and not staging.is_symlink():
                with suppress(OSError):
                    _remove_if_left(staging, target)


def _remove_if_left(staging: Path, target: Path) -> None:
    descriptor = os.open(staging / LOCK_FILE, os.O_RDWR)
    try:
        if not _lock(descriptor):
            return
        old = staging / f"{target.name}.old"
        # Where names cannot be exchanged, a process may be killed after it took one away and before it gave it again.
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file, if nobody else has. The kernel knows who lives, in other containers too, which process ids do not tell."""
    if sys.platform == "win32":
        return False
    import fcntl  # noqa: PLC0415  # not everywhere

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
