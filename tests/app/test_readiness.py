"""When requests are taken, and what is told when not."""

import pytest

from app.errors import EngineLost, NotReady
from app.readiness import Readiness, State


def test_not_ready_until_told() -> None:
    readiness = Readiness()
    with pytest.raises(NotReady, match="loading its models"):
        readiness.check()
    readiness.state = "ready"
    readiness.check()


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("starting", NotReady, "loading"),
        ("draining", NotReady, "shutting down"),
        ("lost", EngineLost, "being replaced"),
    ],
)
def test_each_state_is_told_for_what_it_is(state: State, error: type[Exception], says: str) -> None:
    readiness = Readiness()
    readiness.state = state
    with pytest.raises(error, match=says):
        readiness.check()
