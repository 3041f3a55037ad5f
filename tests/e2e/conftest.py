"""Servers with a device that a test can hold, poison and lose."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BundleOf
from tests.e2e.versions import deploy, turned_round
from tests.support import ServerProcess, starting


@dataclass(frozen=True)
class Device:
    """The device of a server that runs `tests.e2e.faulty`."""

    faults: Path

    def hold(self) -> None:
        """Run nothing, until it is released."""
        (self.faults / "hold").touch()

    @property
    def is_held(self) -> bool:
        """Whether a batch has met with `hold`."""
        return (self.faults / "held").exists()

    def release(self) -> None:
        (self.faults / "hold").unlink(missing_ok=True)

    def poison(self, token_id: int) -> None:
        """Fail on every batch with this token, until it is cured."""
        (self.faults / "poison").write_text(str(token_id))

    def cure(self) -> None:
        for fault in ("poison", "quoted"):
            (self.faults / fault).unlink(missing_ok=True)

    def quote(self, word: str) -> None:
        """Fail on every request with this word, by an error that quotes it, until it is cured."""
        (self.faults / "quoted").write_text(word)

    def lose(self) -> None:
        """Fail for good with the next batch."""
        (self.faults / "lost").touch()

    def slow_down(self, seconds: float) -> None:
        """Take so much longer for every batch."""
        (self.faults / "slow").write_text(str(seconds))

    def shrink(self, sequences: int) -> None:
        """Have memory for batches of so many sequences only."""
        (self.faults / "room").write_text(str(sequences))


@dataclass(frozen=True)
class Steady:
    """A server that tests share, and how much its log held when the test began."""

    server: ServerProcess
    device: Device
    records_before: int

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.server.records[self.records_before :]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The access log, in the order of the answers."""
        return [record for record in self.records if record["message"] == "request"]


ServeFaulty = Callable[..., AbstractContextManager[ServerProcess]]


@contextmanager
def serving_faulty(
    models: Path, device: Device, *arguments: str, wait: bool = True, **environment: str
) -> Iterator[ServerProcess]:
    """Serve models on a device that the test holds."""
    arguments = ("--threads", "1", *arguments)
    faults = {"FAULTS": str(device.faults)} | environment
    with starting(models, *arguments, environment=faults, module="tests.e2e.faulty", wait=wait) as server:
        yield server


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    folder = tmp_path / "faults"
    folder.mkdir()
    device = Device(folder)
    yield device
    device.release()


@pytest.fixture
def serve_faulty(device: Device, shared_models: Path) -> ServeFaulty:
    """Start a server of one model on the test's device."""
    return partial(serving_faulty, shared_models / "sentiment", device)


@pytest.fixture(scope="session")
def _steady(tmp_path_factory: pytest.TempPathFactory, shared_models: Path) -> Iterator[Steady]:
    device = Device(tmp_path_factory.mktemp("faults"))
    # A batch that was held looks like a slow device to the ones after it, which are not to be refused for that.
    patience = ("--max-queue-s", "1000", "--request-timeout-s", "1000")
    with serving_faulty(shared_models / "sentiment", device, "--batch-tokens", "64", *patience) as server:
        yield Steady(server, device, 0)


@pytest.fixture
def steady(_steady: Steady) -> Iterator[Steady]:
    """A server on a device of its own, for tests that leave it well."""
    _steady.server.ask("GET", "/none", headers={"x-request-id": (this := uuid.uuid4().hex)})
    _steady.server.told(this)  # and all that was logged before
    yield replace(_steady, records_before=len(_steady.server.records))
    _steady.device.release()
    _steady.device.cure()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, bundle_of: BundleOf) -> Path:
    """Two versions of one model, which give a text other labels first, and a model for another task."""
    folder = tmp_path_factory.mktemp("versions")
    (folder / "1").symlink_to(bundle_of("bert-single-label"))
    (folder / "2").symlink_to(bundle_of(turned_round(folder / "turned-round")))
    (folder / "embed").symlink_to(bundle_of("bert-embed"))
    return folder


@pytest.fixture
def models(tmp_path: Path, versions: Path) -> Path:
    (tmp_path / "models").mkdir()
    deploy(tmp_path / "models", versions / "1")
    deploy(tmp_path / "models", versions / "embed", "vectors")
    return tmp_path / "models"
