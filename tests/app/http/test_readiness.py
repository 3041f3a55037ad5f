"""When requests are taken, and what is told when not."""

import pytest

from app.errors import EngineLost, NotReady
from app.http.readiness import EngineState, Readiness


def test_not_ready_until_told() -> None:
    readiness = Readiness()
    for check in (readiness.check, readiness.check_engine):
        with pytest.raises(NotReady, match="loading its models"):
            check()
    readiness.engine = "ready"
    readiness.check()
    readiness.check_engine()
    assert readiness.state == "ready"


def test_lost_until_there_is_another() -> None:
    readiness = Readiness()
    readiness.engine = "lost"
    for check in (readiness.check, readiness.check_engine):
        with pytest.raises(EngineLost, match="being replaced"):
            check()


@pytest.mark.parametrize("engine", ["starting", "ready", "lost"])
def test_no_more_is_asked_for_while_it_drains(engine: EngineState) -> None:
    readiness = Readiness()
    readiness.engine = engine
    readiness.is_draining = True
    assert readiness.state == "draining"
    with pytest.raises(NotReady, match="shutting down"):
        readiness.check()


def test_what_still_comes_is_answered_while_it_drains() -> None:
    readiness = Readiness()
    readiness.is_draining = True
    with pytest.raises(NotReady, match="loading its models"):
        readiness.check_engine()
    readiness.engine = "ready"
    readiness.check_engine()
    readiness.engine = "lost"
    with pytest.raises(EngineLost):
        readiness.check_engine()
