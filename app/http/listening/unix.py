"""A Unix socket: a file that other programs of this machine connect to."""

import os
import socket
import stat
from pathlib import Path
from typing import Final

from app.errors import StartupError

MODE: Final = 0o666
"""Everybody who gets to the file may connect, as to a port of loopback: its folder decides who does."""


class SocketFile:
    """The file of a socket. It is beside its place until callers can connect, so that a name that is there is answered."""

    def __init__(self, path: Path) -> None:
        """Bind a socket.

        Raises:
            StartupError: another server listens there, or no socket can be there.
        """
        self._path: Final = path
        self._beside: Final = Path(f"{path}.{os.getpid()}")
        self.socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._check_free()
            self._beside.unlink(missing_ok=True)  # of a server of this number that died before callers could connect
            self.socket.bind(str(self._beside))
            self._beside.chmod(MODE)
            self._inode = self._beside.lstat().st_ino
        except OSError as error:
            self.socket.close()
            raise self._cannot_listen(error) from error
        except StartupError:
            self.socket.close()
            raise

    def show(self) -> None:
        """Put the file in its place, instead of one that a dead server has left there.

        Raises:
            StartupError: another server listens there, or something else is there.
        """
        try:
            self._check_free()
            self._beside.replace(self._path)
        except OSError as error:
            raise self._cannot_listen(error) from error

    def remove(self) -> None:
        """Remove the file, unless another server has put its own there meanwhile."""
        for path in (self._beside, self._path):
            try:
                if path.lstat().st_ino == self._inode:
                    path.unlink()
            except OSError:
                continue

    def _check_free(self) -> None:
        """Return if nothing is in the place, or the socket of a dead server.

        Raises:
            StartupError: a server listens there, or it is no socket.
        """
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise StartupError(
                    f"Cannot listen on {self._path}: it is there, and no socket. Set --uds to another path."
                )
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.setblocking(False)  # a server whose backlog is full has it all the same
            try:
                caller.connect(str(self._path))
            except ConnectionRefusedError:
                return
            except BlockingIOError:
                pass
        raise StartupError(
            f"Cannot listen on {self._path}: another server does. Stop it, or set --uds to another path."
        )

    def _cannot_listen(self, error: OSError) -> StartupError:
        return StartupError(
            f"Cannot listen on {self._path}: {error.strerror or error}. Set --uds to a path of some 90 bytes at most, in a folder that "
            "this user can write to."
        )
