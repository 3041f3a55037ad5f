"""What a child inherits of its supervisor."""

import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from app.processes.supervision.spawn import spawn


def tell(pipe: Connection, number: int) -> None:
    pipe.send(number in signal.pthread_sigmask(signal.SIG_BLOCK, []))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_sent_to_every_process_is_blocked_in_a_child_alone(number: int) -> None:
    ours, theirs = Pipe()
    process = spawn("child", tell, theirs, number)
    assert ours.recv() is True
    process.join()
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
