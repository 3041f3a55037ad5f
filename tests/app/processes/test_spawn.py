"""The environment of a child, and what its supervisor keeps of it."""

import os
import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from app.processes.spawn import spawn


def tell(pipe: Connection) -> None:
    pipe.send((os.environ.get("FOR_THE_CHILD"), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])))


@pytest.mark.parametrize("before", [None, "the supervisor's"])
def test_variables_of_a_child_are_its_own_and_ctrl_c_is_blocked_in_it_alone(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is not None:
        monkeypatch.setenv("FOR_THE_CHILD", before)
    ours, theirs = Pipe()
    process = spawn("child", tell, theirs, environment={"FOR_THE_CHILD": "the child's"})
    assert ours.recv() == ("the child's", True)
    process.join()
    assert os.environ.get("FOR_THE_CHILD") == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
