"""When requests are taken, and what is told when not."""

import pytest

from app.errors import EngineLost, NotReady
from app.http.readiness import EngineState, Readiness


def test_not_ready_until_the_engine_is() -> None:
    readiness = Readiness()
    for check in (readiness.check, readiness.check_engine):
        with pytest.raises(NotReady, match="loading its models"):
            check()
    readiness.engine = "ready"
    readiness.check()
    readiness.check_engine()
    assert readiness.state == "ready"


def test_lost_until_another_engine_is_ready() -> None:
    readiness = Readiness()
    readiness.engine = "lost"
    for check in (readiness.check, readiness.check_engine):
        with pytest.raises(EngineLost, match="being replaced"):
            check()


@pytest.mark.parametrize("engine", ["starting", "ready", "lost"])
def test_draining_is_not_ready(engine: EngineState) -> None:
    readiness = Readiness()
    readiness.engine = engine
    readiness.is_draining = True
    assert readiness.state == "draining"
    with pytest.raises(NotReady, match="shutting down"):
        readiness.check()


def test_requests_that_arrive_while_draining_are_answered() -> None:
    readiness = Readiness()
    readiness.is_draining = True
    with pytest.raises(NotReady, match="loading its models"):
        readiness.check_engine()
    readiness.engine = "ready"
    readiness.check_engine()
    readiness.engine = "lost"
    with pytest.raises(EngineLost):
        readiness.check_engine()
