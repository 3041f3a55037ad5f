"""What the tests of training share."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training import toy
from training.__main__ import main

# So small a network is learnt by one thread; those of several workers would wait for each other, each at a core's full speed.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def as_in_a_process_of_its_own() -> None:
    """Learn in this process to the same bits as in one that is started: by one thread, though torch may be imported already.

    And let Ctrl-C stop what is started, which a shell's background jobs ignore.
    """
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that has learnt nothing yet."""
    return toy.make_checkpoint(tmp_path_factory.mktemp("toy") / "checkpoint")


@pytest.fixture
def training(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed, and return what it printed."""

    def training(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out + err

    return training


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail, and return why it did."""

    def refused(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        *_, last = capsys.readouterr().err.splitlines()
        assert status == 1
        return last

    return refused
