"""Weights that one start has laid out are mapped by the next, or made again."""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.bundle.sequences import SequenceResult
from app.engine.golden import golden_sequences
from app.errors import BundleError
from app.runtime import kept_weights, shared_weights
from app.runtime.folder_lock import FolderLock
from app.runtime.kept_weights import BLOCK, GRAPH, KEPT_FOR_S, SUMS, KeptWeights
from app.runtime.runner import OrtRunner
from tests.conftest import BundleOf

MODEL = ("sentiment", "cpu-fp32")
MAPPED = Path("/proc/self/maps")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "made" / "cache"


@pytest.fixture
def folder(bundle_of: BundleOf, tmp_path: Path) -> Path:
    """A bundle whose files a test may damage."""
    return Path(shutil.copytree(bundle_of("bert-single-label"), tmp_path / "bundle"))


def kept_in(cache: Path, conditions: str = "this") -> KeptWeights:
    return KeptWeights(cache, MODEL, (conditions,))


def opened(folder: Path, kept: KeptWeights | None, threads: tuple[int, ...] = (1, 2)) -> OrtRunner:
    bundle = load_bundle(folder)
    return OrtRunner(bundle, bundle.manifest.variants[0], threads=threads, kept=kept)


def answers(runner: OrtRunner, folder: Path) -> list[SequenceResult]:
    sequences = golden_sequences(load_bundle(folder))
    return [result for threads in runner.threads for result in runner.run(sequences, threads)]


def kept_folders(cache: Path) -> list[Path]:
    assert not [one for one in cache.iterdir() if not one.name.startswith("kept-")]  # nothing of a write is left
    return sorted(cache.iterdir())


@pytest.mark.parametrize("threads", [(1, 2), (1,)])
def test_the_next_start_maps_the_weights_and_reads_no_graph_of_the_bundle(
    cache: Path, folder: Path, threads: tuple[int, ...]
) -> None:
    plain = answers(opened(folder, None, threads), folder)
    opened(folder, kept_in(cache), threads)
    [kept] = kept_folders(cache)
    graph = load_bundle(folder).path(load_bundle(folder).manifest.variants[0].graph)
    graph.write_bytes(bytes(graph.stat().st_size))
    again = opened(folder, kept_in(cache), threads)
    assert again.threads == [*threads]
    assert len({line.split()[4] for line in MAPPED.read_text().splitlines() if str(kept) in line}) == 1  # inode
    np.testing.assert_array_equal(np.array(answers(again, folder)), np.array(plain))


def _cut(kept: Path) -> None:
    os.truncate(kept / "weights", (kept / "weights").stat().st_size - 1)


def _change(kept: Path) -> None:
    with (kept / "weights").open("r+b") as stream:
        stream.seek(-5, os.SEEK_END)
        stream.write(b"\xa5")


def _flip(kept: Path) -> None:
    """One bit of the first block."""
    with (kept / "weights").open("r+b") as stream:
        [byte] = stream.read(1)
        stream.seek(0)
        stream.write(bytes([byte ^ 1]))


def _exchange(kept: Path) -> None:
    """Two blocks, which take the places of each other."""
    content = (kept / "weights").read_bytes()
    blocks = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    other = next(i for i, block in enumerate(blocks) if block != blocks[0])
    blocks[0], blocks[other] = blocks[other], blocks[0]
    (kept / "weights").write_bytes(b"".join(blocks))


def _link(kept: Path) -> None:
    (kept / "weights").rename(kept.parent.parent / "weights")
    (kept / "weights").symlink_to(kept.parent.parent / "weights")


def _file_in_its_place(kept: Path) -> None:
    shutil.rmtree(kept)
    kept.write_bytes(b"")


def _link_in_its_place(kept: Path) -> None:
    kept.symlink_to(kept.rename(kept.parent.parent / "elsewhere"))


def _no_graph(kept: Path) -> None:
    """Whole by its sums, which are of other files."""
    (kept / GRAPH).write_bytes(b"no graph")
    (kept / SUMS).write_text(kept_weights._sums(kept))


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _change,
        _flip,
        _exchange,
        _link,
        _no_graph,
        lambda kept: (kept / "weights").unlink(),
        lambda kept: (kept / SUMS).unlink(),
        lambda kept: (kept / SUMS).write_bytes(b"\xff"),
        lambda kept: os.mkfifo(kept / "pipe"),
        lambda kept: kept.chmod(0o750),
        _file_in_its_place,
        _link_in_its_place,
    ],
)
def test_what_is_damaged_or_open_to_others_is_made_again(
    cache: Path, folder: Path, damage: Callable[[Path], object]
) -> None:
    plain = answers(opened(folder, kept_in(cache)), folder)
    [kept] = kept_folders(cache)
    damage(kept)
    runner = opened(folder, kept_in(cache))
    assert runner.threads == [1, 2]
    np.testing.assert_array_equal(np.array(answers(runner, folder)), np.array(plain))
    assert kept_in(cache).find() is not None


@pytest.mark.parametrize("damage", [Path.unlink, lambda graph: os.truncate(graph, 10)])
def test_a_bundle_that_lacks_what_the_first_start_read_is_refused(
    cache: Path, folder: Path, damage: Callable[[Path], object]
) -> None:
    """Or nobody would know before the day on which the weights have to be made again."""
    opened(folder, kept_in(cache))
    damage(load_bundle(folder).path(load_bundle(folder).manifest.variants[0].graph))
    with pytest.raises(BundleError, match=r"is missing from the bundle|the copy is incomplete"):
        opened(folder, kept_in(cache))


def test_under_other_conditions_they_are_made_again_and_the_former_ones_are_removed(cache: Path, folder: Path) -> None:
    opened(folder, kept_in(cache))
    [former] = kept_folders(cache)
    opened(folder, kept_in(cache, "other"))
    [now] = kept_folders(cache)
    assert now != former


def test_what_is_in_use_is_not_removed(cache: Path, folder: Path) -> None:
    runner = opened(folder, kept_in(cache))
    [used] = kept_folders(cache)
    opened(folder, kept_in(cache, "other"))
    assert used in kept_folders(cache)
    used_again = opened(folder, kept_in(cache))
    del runner
    opened(folder, kept_in(cache, "third"))
    assert used in kept_folders(cache)
    del used_again
    opened(folder, kept_in(cache, "fourth"))
    assert used not in kept_folders(cache)


def test_those_of_another_model_are_removed_when_no_start_has_used_them_for_long(cache: Path, folder: Path) -> None:
    other = KeptWeights(cache, ("other", "cpu-fp32"), ("this",))
    opened(folder, other)
    [old] = kept_folders(cache)
    os.utime(old, (0, time.time() - KEPT_FOR_S - 60))
    assert opened(folder, other).threads  # uses them
    opened(folder, kept_in(cache))
    assert old in kept_folders(cache)
    os.utime(old, (0, time.time() - KEPT_FOR_S - 60))
    opened(folder, kept_in(cache))  # a warm start removes it, too
    assert old not in kept_folders(cache)


def test_what_is_forgotten_is_made_again_though_it_is_in_use(cache: Path, folder: Path) -> None:
    runner = opened(folder, kept_in(cache))
    kept_in(cache).forget()
    assert kept_in(cache).find() is None
    assert answers(runner, folder)
    del runner
    opened(folder, kept_in(cache))
    assert kept_in(cache).find() is not None


@pytest.mark.parametrize("threads", [(1, 2), (2,)])
def test_without_room_nothing_is_kept_and_the_model_runs_as_ever(
    cache: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    threads: tuple[int, ...],
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(kept_weights, "ROOM", 2**60)
    assert opened(folder, kept_in(cache), threads).threads == [*threads]
    assert kept_folders(cache) == []


def test_where_nothing_can_be_locked_nothing_is_kept_and_the_model_runs_as_ever(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(path: Path, *, alone: bool = False) -> FolderLock:
        if path.is_relative_to(cache):
            raise OSError(errno.ENOLCK, "No locks available")
        return FolderLock(path, alone=alone)

    monkeypatch.setattr(kept_weights, "FolderLock", without_locks)
    monkeypatch.setattr(shared_weights, "FolderLock", without_locks)
    assert opened(folder, kept_in(cache)).threads == [1, 2]
    assert kept_folders(cache) == []


def test_files_are_used_again_whatever_the_umask(cache: Path, folder: Path) -> None:
    before = os.umask(0o002)
    try:
        opened(folder, kept_in(cache))
    finally:
        os.umask(before)
    assert kept_in(cache).find() is not None


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null/cache"])
@pytest.mark.usefixtures("cache")
def test_without_a_folder_nothing_is_kept_and_the_model_runs_as_ever(folder: Path, place: str) -> None:
    assert opened(folder, kept_in(Path(place))).threads == [1, 2]


def test_of_servers_that_start_at_once_one_keeps_them(cache: Path, folder: Path) -> None:
    plain, start, answered = answers(opened(folder, None), folder), threading.Barrier(3), []

    def serve() -> None:
        start.wait()
        answered.append(answers(opened(folder, kept_in(cache)), folder))

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in answered:
        np.testing.assert_array_equal(np.array(one), np.array(plain))
    assert len(answered) == len(threads)
    assert len(kept_folders(cache)) == 1


def test_what_a_killed_process_left_half_written_is_removed(cache: Path, folder: Path) -> None:
    killed, writing = cache / "bert-weights-killed", cache / "bert-weights-writing"
    for half in (killed, writing):
        half.mkdir(parents=True)
        (half / GRAPH).write_bytes(b"x")
    descriptor = os.open(writing, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    opened(folder, kept_in(cache))
    os.close(descriptor)
    assert writing.exists()
    assert not killed.exists()
