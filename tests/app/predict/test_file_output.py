"""The files of a run that ends at any moment."""

import fcntl
from pathlib import Path
from typing import Any

import pytest

from app.predict.faults import WrongUse
from app.predict.file_output import FileOutput
from app.predict.output import Counts
from app.predict.source import Position

POSITION = Position(offset=10, lines=2, rows=1, sha256="")


def opened(tmp_path: Path, *, overwrite: bool = False, **run: Any) -> FileOutput:
    return FileOutput(tmp_path / "out", tmp_path / "bad", run, overwrite=overwrite)


def files(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith(".progress")}


def test_what_was_not_committed_is_cut_off(tmp_path: Path) -> None:
    with opened(tmp_path) as output:
        output.write(b"one\n", b"bad one\n")
        output.commit(POSITION, Counts(predicted=1, bad=1), None)
        output.write(b"two\n", b"bad two\n")
    assert files(tmp_path) == {"out.part": b"one\ntwo\n", "bad.part": b"bad one\nbad two\n"}
    with opened(tmp_path) as output:
        assert output.progress is not None
        assert (output.progress.position, output.progress.counts.rows) == (POSITION, 2)
        output.write(b"2\n", b"")
        output.commit(POSITION, Counts(), None)
        output.finish()
    assert files(tmp_path) == {"out": b"one\n2\n", "bad": b"bad one\n"}


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_files_get_their_names_although_a_run_ends_while_it_names_them(tmp_path: Path, renamed: int) -> None:
    with opened(tmp_path) as output:
        output.write(b"one\n", b"bad\n")
        output.commit(POSITION, Counts(predicted=1, bad=1), None)
        assert output.progress is not None
        output._tell(output.progress.model_copy(update={"is_complete": True}))
    for name in ["bad", "out"][:renamed]:
        (tmp_path / f"{name}.part").rename(tmp_path / name)
    with opened(tmp_path) as output:
        assert output.progress is not None
        assert output.progress.is_complete
    assert files(tmp_path) == {"out": b"one\n", "bad": b"bad\n"}
    assert not (tmp_path / "out.progress").exists()


def test_a_run_does_not_write_what_another_one_gave_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as first:
        first.write(b"one\n", b"")
        first.commit(POSITION, Counts(predicted=1), None)
        lock = fcntl.flock

        def lock_late(stream: Any, how: int) -> None:
            first.finish()
            first._files.close()
            lock(stream, how)

        monkeypatch.setattr("fcntl.flock", lock_late)
        with pytest.raises(WrongUse, match="Another run writes"):
            opened(tmp_path)
    assert files(tmp_path) == {"out": b"one\n"}


def test_a_part_that_lacks_what_counts_is_not_gone_on_with(tmp_path: Path) -> None:
    with opened(tmp_path) as output:
        output.write(b"one\n", b"")
        output.commit(POSITION, Counts(predicted=1), None)
    (tmp_path / "out.part").write_bytes(b"on")
    with pytest.raises(WrongUse, match="lacks what"):
        opened(tmp_path)
    with opened(tmp_path, overwrite=True) as output:
        assert output.progress is None
    assert files(tmp_path) == {}


def test_a_damaged_progress_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "out.progress").write_text("{")
    with pytest.raises(WrongUse, match="is damaged"):
        opened(tmp_path)
    with opened(tmp_path, overwrite=True) as output:
        assert output.progress is None
