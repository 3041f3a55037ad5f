"""What a front end does before it serves."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from app.processes import front_end_process
from app.processes.front_end_process import _files_are_right
from app.processes.signals import FINISH
from app.settings import Settings


@pytest.mark.parametrize("is_told", [False, True])
def test_a_front_end_that_is_told_to_finish_while_it_reads_its_files_ends(
    monkeypatch: pytest.MonkeyPatch, *, is_told: bool
) -> None:
    async def until_right(_: Callable[[], object]) -> None:
        if is_told:
            os.kill(os.getpid(), FINISH)  # the event loop sees it when this has been done

    monkeypatch.setattr(front_end_process, "until_right", until_right)
    supervisor: Any = SimpleNamespace(when_gone=lambda _: None)
    assert uvloop.run(_files_are_right(Settings(), supervisor)) is not is_told
