"""What a child inherits of its supervisor."""

import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from app.processes.supervision.spawn import spawn

SENT_TO_ALL = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def tell(pipe: Connection) -> None:
    pipe.send(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_what_is_sent_to_every_process_is_blocked_in_a_child_alone() -> None:
    ours, theirs = Pipe()
    process = spawn("child", tell, theirs)
    assert ours.recv() >= SENT_TO_ALL
    process.join()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & SENT_TO_ALL
