"""The file of a Unix socket: who may connect, and what becomes of one that is there already."""

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.errors import StartupError
from app.http.listening.unix import SocketFile


@contextmanager
def listening(path: Path) -> Iterator[SocketFile]:
    file = SocketFile(path)
    with file.socket:
        file.socket.listen(1)
        file.show()
        yield file


def test_everybody_who_gets_to_the_file_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(path) as file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
        file.remove()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_in_the_place_before_callers_can_connect(tmp_path: Path) -> None:
    file = SocketFile(tmp_path / "socket")
    with file.socket:
        assert not (tmp_path / "socket").exists()
        file.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(path):
        pass
    assert path.is_socket()
    with listening(path), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_a_server_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(path) as first:
        pass
    with listening(path):
        first.remove()
        assert path.is_socket()


@pytest.mark.parametrize("callers", [0, 5])
def test_a_server_that_listens_is_left_alone(tmp_path: Path, callers: int) -> None:
    """Also one that has more callers waiting than it may have."""
    path = tmp_path / "socket"
    late = SocketFile(path)
    with late.socket, listening(path):
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(callers)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(str(path))
        for refused in (lambda: SocketFile(path), late.show):
            with pytest.raises(StartupError, match=r"Cannot listen on .*: another server does\. .* --uds"):
                refused()
        for one in waiting:
            one.close()
        late.remove()
        assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(StartupError, match="it is there, and no socket"):
        SocketFile(path)
    assert path.read_text() == "precious"


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"path too long. Set --uds to a path of some 90 bytes"):
        SocketFile(tmp_path / ("x" * 100))
    with pytest.raises(StartupError, match=r"No such file or directory. Set --uds"):
        SocketFile(tmp_path / "missing" / "socket")
