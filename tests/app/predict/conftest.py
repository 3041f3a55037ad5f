"""What holds for every test of the command, which sets up the log of its process."""

import pytest


@pytest.fixture(autouse=True)
def _logs_stay(logging_as_before: None) -> None:
    """Have no later test write to the stderr of this one."""
