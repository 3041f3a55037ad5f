"""Threads that cannot be started."""

import threading

import pytest

from app.engine.threads import Threads
from app.errors import StartupError


def test_an_engine_without_room_for_its_threads_says_what_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(StartupError, match=r"can't start new thread.*limit of processes"):
        Threads(lanes=4)
