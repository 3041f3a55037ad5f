"""A server with a device that a test can hold, poison and lose."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ServerProcess, serving


@dataclass(frozen=True)
class Device:
    """The device of a server that runs `tests.e2e.faulty`."""

    faults: Path

    def hold(self) -> None:
        """Run nothing, until it is released."""
        (self.faults / "hold").touch()

    def release(self) -> None:
        (self.faults / "hold").unlink(missing_ok=True)

    def poison(self, token_id: int) -> None:
        """Fail on every batch with this token."""
        (self.faults / "poison").write_text(str(token_id))

    def lose(self) -> None:
        """Fail for good with the next batch."""
        (self.faults / "lost").touch()


ServeFaulty = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    folder = tmp_path / "faults"
    folder.mkdir()
    device = Device(folder)
    yield device
    device.release()


@pytest.fixture
def serve_faulty(device: Device, shared_models: Path) -> ServeFaulty:
    """Start a server of one model, or of the shared ones, on the test's device."""

    @contextmanager
    def serve(
        *arguments: str, wait: bool = True, models: Path = shared_models / "sentiment"
    ) -> Iterator[ServerProcess]:
        arguments = ("--threads", "1", *arguments)
        faults = {"FAULTS": str(device.faults)}
        with serving(models, *arguments, wait=wait, module="tests.e2e.faulty", **faults) as server:
            yield server

    return serve
