"""How a process ends, and what its log says of that last."""

import pytest

from app.processes.exit_status import ExitStatus, run


def test_a_lack_of_memory_is_named_as_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> ExitStatus:
        raise MemoryError

    assert run(main()) is ExitStatus.FAILED
    assert "not enough memory" in caplog.text
    assert "Traceback" not in caplog.text
