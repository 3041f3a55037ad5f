"""Weights that one start has laid out for the processor, kept for the next one, which maps the files and makes none.

They may be deleted at any time, and servers may share them. A folder counts only if it is open to this user alone, and whole.
"""

import errno
import hashlib
import logging
import os
import shutil
import stat
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from app.bundle.regular_file import parts_of
from app.runtime.folder_lock import FolderLock, remove_unused

log = logging.getLogger(__name__)

GRAPH: Final = "graph.onnx"
SUMS: Final = "sums"
"""Has a checksum and the size of each file. They show what a disk does; that other users do nothing, the folder's mode shows."""
BLOCK: Final = 4096
"""Bytes whose sum, in words of 64 bits, is a word of what the checksum, a CRC-32, is made of: four times as fast as of all bytes, and what
a disk spoils or mistakes for another is a block."""
KEPT_FOR_S: Final = 7 * 24 * 3600.0
"""What no start has used for so long is removed."""
ROOM: Final = 2
"""Files are kept where the disk has room for so many times as much."""
_PREFIX: Final = "kept-weights-"


class KeptWeights:
    """Those of one model under some conditions. The methods wait for the disk."""

    def __init__(self, folder: Path, model: Sequence[str], conditions: Sequence[str]) -> None:
        """Look at nothing yet.

        Args:
            folder: Of all models; it need not exist.
            model: Its name and variant. Others of the same are removed when these are kept or found, unless they are in use.
            conditions: What the files depend on: the bundle, the processor, the versions of what makes them.
        """
        self.folder: Final = folder
        self._of_model: Final = _PREFIX + _digest(model)
        self._path: Final = folder / f"{self._of_model}-{_digest(conditions)}"

    def has_room(self, size_bytes: int) -> bool:
        """Return whether so much can be kept: there is a folder, to be written to, on a disk that has room, and locks."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            FolderLock(self.folder).close()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            log.info("weights are not kept in %s: %s", self.folder, error.strerror)
            return False
        if free <= ROOM * size_bytes:
            log.info(
                "weights are not kept in %s: %d MiB of %d are left", self.folder, free >> 20, ROOM * size_bytes >> 20
            )
            return False
        if not os.access(self.folder, os.W_OK):
            log.info("weights are not kept in %s: it is read-only", self.folder)
            return False
        return True

    def find(self) -> tuple[Path, FolderLock] | None:
        """Return the graph that an earlier start has left, with the lock for as long as it is mapped; None if it has not."""
        try:
            lock = self._lock()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.info("%s is not used: %s", self._path, error.strerror or error)
                self._clear()
            return None
        try:
            _require_whole(self._path)
        except (OSError, ValueError) as error:
            log.info("%s is not used: %s", self._path, error)
            lock.close()
            self.forget()
            return None
        with suppress(OSError):  # it may be a part of an image, and read-only
            os.utime(self._path)
        self._remove_others()
        return self._path / GRAPH, lock

    def keep(self, written: Path) -> FolderLock | None:
        """Move a folder that has the files to where the next start finds it, and remove what is of no use beside it.

        Returns:
            The lock for as long as they are mapped; None if they are not kept, as another server was faster, or the disk failed.
        """
        try:
            (written / SUMS).write_text(_sums(written), encoding="ascii")
            written.rename(self._path)
            lock = self._lock()
        except OSError as error:
            level = logging.DEBUG if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else logging.INFO
            log.log(level, "the next start lays the weights out again, as they cannot be kept: %s", error)
            return None
        self._remove_others()
        return lock

    def forget(self) -> None:
        """Have the next start make them again."""
        with suppress(OSError):
            (self._path / SUMS).unlink()  # those who use them go on
        remove_unused(self._path)

    def _clear(self) -> None:
        """Make room for a folder, where something of this user is that cannot be one of these: open to others, a file or a link."""
        with suppress(OSError):
            status = self._path.lstat()
            if status.st_uid == os.geteuid():
                if stat.S_ISDIR(status.st_mode):
                    remove_unused(self._path)
                else:
                    self._path.unlink()

    def _lock(self) -> FolderLock:
        lock = FolderLock(self._path)
        status = os.fstat(lock.descriptor)
        if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return lock
        lock.close()
        raise PermissionError("it is open to other users than this one")

    def _remove_others(self) -> None:
        for other in self.folder.glob(f"{_PREFIX}*"):
            with suppress(OSError):  # another server was faster
                is_old = time.time() - other.lstat().st_mtime > KEPT_FOR_S
                if other != self._path and (is_old or other.name.startswith(f"{self._of_model}-")):
                    remove_unused(other)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _sums(folder: Path) -> str:
    return "".join(_sum(file) for file in sorted(folder.iterdir()) if file.name != SUMS)


def _sum(file: Path) -> str:
    checksum, size_bytes = 0, 0
    with file.open("rb") as stream:
        for part in parts_of(stream):
            blocks = np.frombuffer(part[: len(part) // BLOCK * BLOCK], np.uint64).reshape(-1, BLOCK // 8)
            checksum = zlib.crc32(part[blocks.nbytes :], zlib.crc32(blocks.sum(axis=1), checksum))
            size_bytes += len(part)
    return f"{checksum:08x} {size_bytes} {file.name}\n"


def _require_whole(folder: Path) -> None:
    """Raise if a file is missing or damaged, or is no file."""
    if not all(stat.S_ISREG(file.lstat().st_mode) for file in folder.iterdir()):
        raise ValueError("it has more than files")
    if (folder / SUMS).read_text(encoding="ascii") != _sums(folder):
        raise ValueError("it is damaged")
