"""Put a folder in its place whole, or not at all."""

import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from model_export.output.killed_exports import locked, remove_killed_exports

_CANNOT: Final = {
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF),
}
"""What systems answer that do not have an operation, or not for a folder (WSL, NFS, FUSE)."""
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which replaces `target` when the block ends without an error.

    The folder is made on the same file system, two levels deep beside the target, where the server does not look for
    bundles. The old `target` stays until the new one replaces it. A process that is killed leaves its folder; the next
    export to the same target removes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_killed_exports(target)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with locked(staging):
            with suppress(OSError):  # not every file system has permissions of its own
                staging.chmod(0o755)  # mkdtemp lets only this user read, and a server often runs as another
            folder = staging / target.name
            folder.mkdir()
            yield folder
            for path in [*folder.iterdir(), folder]:
                _sync(path)
            _move(folder, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(folder: Path, target: Path) -> None:
    if not os.path.lexists(target):
        folder.rename(target)
    elif not _exchange(folder, target):
        # If the system cannot exchange two names, the target is missing for an instant, but never incomplete.
        old = folder.with_name(f"{folder.name}.old")
        target.rename(old)
        try:
            folder.rename(target)
        except OSError:
            old.rename(target)
            raise


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names atomically; return False if the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(b))


def _sync(path: Path) -> None:
    """Wait until a file or folder is on disk, where the system and the file system can tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
