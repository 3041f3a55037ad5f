"""Files that are read again when they change, as a Secret of Kubernetes does."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from app.errors import StartupError

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0

T = TypeVar("T")

Signature = tuple[int, ...] | None


def signature_of(path: Path) -> Signature:
    """Return what is another one when the file is another, also behind links, as of a Secret of Kubernetes; None if there is none.

    Copies that keep times, and permissions, show in the time of the last change only.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path takes twice as long
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


class Changes:
    """Sees that files have changed, and has them read."""

    def __init__(self, *paths: Path | None) -> None:
        """Take the files as they are now; None stands for one that is not used. They are to be read after this."""
        self._paths: Final = [path for path in paths if path is not None]
        self._seen = self._read = self._told = self._look()

    def read(self, read: Callable[[], T], otherwise: str) -> T | None:
        """Return what is read anew if a file is another, and was so in the look before: what is still being written is not read.

        Args:
            read: Raises StartupError if a file is wrong, which the log tells once. It is tried again if the system did not let it
                read: a process may have too many files open for a while, and a key that is revoked meanwhile must not stay.
            otherwise: What holds then, for the log.

        Returns:
            None if there is nothing new.
        """
        before, self._seen = self._seen, self._look()
        if self._seen != before or self._seen == self._read:
            return None
        try:
            found = read()
        except StartupError as error:
            if not isinstance(error.__cause__, OSError):
                self._read = self._seen
            if self._told != self._seen:
                log.error("%s %s", error, otherwise)  # noqa: TRY400
                self._told = self._seen
            return None
        self._read = self._told = self._seen
        log.info("%s was read again", " or ".join(map(str, self._paths)))
        return found

    def _look(self) -> list[Signature]:
        return [signature_of(path) for path in self._paths]


async def look_again(look: Callable[[], object]) -> None:
    """Look once a second until cancelled."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        look()


async def until_right(read: Callable[[], object]) -> None:
    """Wait until files can be read.

    They were right when the service started. Whoever writes them anew may have made a mistake since, which the processes that have
    read them before outlive; one that is started now would end again and again, and the service with it.
    """
    told = ""
    while True:
        try:
            read()
        except StartupError as error:
            if str(error) != told:
                log.error("%s This process serves once it is right.", error)  # noqa: TRY400
                told = str(error)
            await asyncio.sleep(LOOK_EVERY_S)
        else:
            return
