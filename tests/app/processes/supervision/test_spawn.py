"""What a child inherits of its supervisor."""

import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from app.processes.supervision.spawn import spawn


def tell(pipe: Connection) -> None:
    pipe.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_ctrl_c_is_blocked_in_a_child_alone() -> None:
    ours, theirs = Pipe()
    process = spawn("child", tell, theirs)
    assert ours.recv() is True
    process.join()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
