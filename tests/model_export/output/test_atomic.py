"""A folder is there whole, or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model_export.output import atomic, killed_exports
from model_export.output.atomic import replacing
from model_export.output.killed_exports import LOCK_FILE


def fill(folder: Path, content: str) -> None:
    (folder / "a").write_text(content)


def content_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(params=["exchanged", "renamed twice"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of replacing: the system's exchange of names, and where there is none."""
    if request.param == "renamed twice":
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)


def test_new_folder(tmp_path: Path) -> None:
    target = tmp_path / "models" / "name"
    with replacing(target) as folder:
        fill(folder, "new")
        assert not target.exists()
    assert content_of(target) == {"a": "new"}
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.usefixtures("way")
def test_folder_in_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / "name"
    target.mkdir()
    fill(target, "old")
    (target / "b").write_text("of the old one")
    with replacing(target) as folder:
        fill(folder, "new")
        assert content_of(target)["a"] == "old"
    assert content_of(target) == {"a": "new"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.usefixtures("way")
def test_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    version = tmp_path / "version-1"
    version.mkdir()
    fill(version, "old")
    target = tmp_path / "name"
    target.symlink_to(version)
    with replacing(target) as folder:
        fill(folder, "new")
    assert not target.is_symlink()
    assert content_of(target) == {"a": "new"}
    assert content_of(version) == {"a": "old"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_error_in_the_middle_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "name"
    target.mkdir()
    fill(target, "old")
    with pytest.raises(error), replacing(target) as folder:  # noqa: PT012  # the error comes in the middle
        fill(folder, "half")
        raise error
    assert content_of(target) == {"a": "old"}
    assert list(tmp_path.iterdir()) == [target]


def test_old_folder_is_put_back_where_the_new_one_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "name"
    target.mkdir()
    fill(target, "old")
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    rename: Callable[[Path, Path], Path] = Path.rename

    def failing(path: Path, to: Path) -> Path:
        if path.name == "name" and to == target:
            raise OSError("disk full")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"), replacing(target) as folder:
        fill(folder, "new")
    assert content_of(target) == {"a": "old"}
    assert list(tmp_path.iterdir()) == [target]


def test_folder_can_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "name") as folder:
            fill(folder, "new")
    finally:
        os.umask(before)
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o755


def test_file_system_without_modes_and_without_fsync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of WSL, some FUSE and NFS: the whole export was lost at its last step."""

    def cannot(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    monkeypatch.setattr(os, "chmod", cannot)  # what Path.chmod calls
    target = tmp_path / "name"
    for content in ("old", "new"):
        with replacing(target) as folder:
            fill(folder, content)
    assert content_of(target) == {"a": "new"}
    assert list(tmp_path.iterdir()) == [target]


def test_file_that_does_not_reach_the_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"), replacing(tmp_path / "name") as folder:
        fill(folder, "new")
    assert list(tmp_path.iterdir()) == []


# --- folders of killed processes


def leave(target: Path) -> Path:
    """Make the folder of a process that was killed while it filled it: the lock file is not locked."""
    staging = target.parent / f".{target.name}.a1b2_c3d"
    (staging / target.name).mkdir(parents=True)
    fill(staging / target.name, "half")
    (staging / LOCK_FILE).touch()
    return staging


def test_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "name"
    staging = leave(target)
    with replacing(target) as folder:
        assert not staging.exists()
        fill(folder, "new")
    assert list(tmp_path.iterdir()) == [target]


def test_folder_of_a_living_process_stays(tmp_path: Path) -> None:
    target = tmp_path / "name"
    with replacing(target) as first:
        fill(first, "of the first")
        with replacing(target) as second:
            assert content_of(first) == {"a": "of the first"}
            fill(second, "of the second")
    assert content_of(target) == {"a": "of the first"}, "the last to end replaces it"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "other", [".name.20250101", ".name.new", ".name.x.a1b2_c3d", ".other.a1b2_c3d", "name.a1b2_c3d"]
)
def test_other_folders_stay(tmp_path: Path, other: str) -> None:
    backup = tmp_path / other
    backup.mkdir()
    fill(backup, "mine")
    if other != ".name.20250101":  # of the right name, but without a lock
        (backup / LOCK_FILE).touch()
    link = tmp_path / ".name.l1nk_l1n"
    link.symlink_to(leave(tmp_path / "elsewhere"))
    with replacing(tmp_path / "name") as folder:
        fill(folder, "new")
    assert content_of(backup)["a"] == "mine"
    assert content_of(link / "elsewhere") == {"a": "half"}


@pytest.mark.parametrize("has_target", [False, True])
def test_old_bundle_that_a_killed_process_had_renamed_is_put_back(tmp_path: Path, has_target: bool) -> None:
    target = tmp_path / "name"
    staging = leave(target)
    (staging / "name.old").mkdir()
    fill(staging / "name.old", "old")
    if has_target:
        target.mkdir()
        fill(target, "there")
    with pytest.raises(ValueError, match="in the middle"), replacing(target):
        raise ValueError("in the middle")
    assert content_of(target) == {"a": "there" if has_target else "old"}
    assert list(tmp_path.iterdir()) == [target]


def test_without_locks_no_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killed_exports, "_lock", lambda _: False)
    target = tmp_path / "name"
    staging = leave(target)
    with replacing(target) as folder:
        assert list(folder.parent.iterdir()) == [folder]
        fill(folder, "new")
    assert sorted(tmp_path.iterdir()) == [staging, target]
