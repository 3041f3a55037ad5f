"""Sessions with different numbers of threads share the weights, or there is only one."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bundle.files import load_bundle
from app.engine.golden import golden_sequences
from app.runtime import shared_weights
from app.runtime.runner import OrtRunner
from app.runtime.shared_weights import PREFIX
from tests.conftest import BundleOf

MAPPED = Path("/proc/self/maps")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.glob("new-*"))


def opened(folder: Path) -> OrtRunner:
    bundle = load_bundle(folder)
    runner = OrtRunner(bundle, bundle.manifest.variants[0], threads=[1, 2])
    for threads in runner.threads:
        assert runner.run(golden_sequences(bundle), threads)
    return runner


def test_sessions_map_the_same_weights_from_a_file_without_a_name(bundle_of: BundleOf, temporary: Path) -> None:
    runner = opened(bundle_of("bert-single-label"))
    assert runner.threads == [1, 2]
    mapped = {line.split()[4] for line in MAPPED.read_text().splitlines() if str(temporary) in line}
    assert len(mapped) == 1  # inode
    assert not list(temporary.iterdir())


def test_without_memory_for_the_files_all_cores_run_each_batch(
    bundle_of: BundleOf, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_weights, "memory_left_bytes", lambda: 1 << 10)
    with caplog.at_level(logging.INFO):
        assert opened(bundle_of("bert-single-label")).threads == [2]
    assert "runs with 2 threads whatever the load: 0 MiB of memory are left" in caplog.text
    assert not list(temporary.iterdir())


def test_without_a_folder_for_the_files_all_cores_run_each_batch(
    bundle_of: BundleOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert opened(bundle_of("bert-single-label")).threads == [2]


def test_files_of_a_process_that_was_killed_are_removed_and_those_in_use_are_not(
    bundle_of: BundleOf, temporary: Path
) -> None:
    killed, loading, other = (temporary / name for name in (f"{PREFIX}killed", f"{PREFIX}loading", "other"))
    for folder in (killed, loading, other):
        folder.mkdir()
        (folder / "weights").write_bytes(b"x")
    descriptor = os.open(loading, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    opened(bundle_of("bert-single-label"))
    os.close(descriptor)
    assert sorted(temporary.iterdir()) == [loading, other]
