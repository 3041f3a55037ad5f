"""Going back to a version of a model that is still in the folder, and listing what is there."""

import errno
import multiprocessing
import os
import shutil
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from deploy.fill_models import list_versions, main, roll_back, serve_version
from tests.conftest import BundleOf
from tests.support import change_manifest


@pytest.fixture
def models(tmp_path: Path, bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 2 of a model is served, and version 1 was before."""
    folder = tmp_path / "models"
    for version, checkpoint in (("1", "bert-single-label"), ("2", "bert-multi-label")):
        bundle = shutil.copytree(bundle_of(checkpoint), folder / ".versions" / version / "reviews")
        serve_version(folder, "reviews", bundle)
    monkeypatch.setenv("BERT_MODELS", str(folder))
    monkeypatch.setenv("MODEL_NAME", "reviews")
    return folder


def served(models: Path) -> str:
    return (models / "reviews").resolve().parent.name


def test_one_command_serves_the_version_before_and_once_more_the_newer_one(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served(models) == "2"
    assert main(["rollback"]) == 0
    assert served(models) == "1"
    assert "Set MODEL_VERSION=1 " in capsys.readouterr().out
    assert main(["rollback", "reviews"]) == 0
    assert served(models) == "2"
    assert main(["rollback", "reviews", "1"]) == 0
    assert served(models) == "1"


def test_the_list_tells_what_is_served_and_what_was(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / ".versions" / "3" / "reviews").mkdir(parents=True)  # an export that has not ended
    assert main(["versions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["reviews 1 (before)", "reviews 2 (served)"]


def test_a_version_that_cannot_be_served_changes_nothing(models: Path) -> None:
    with pytest.raises(SystemExit, match="version 7 is not there"):
        main(["rollback", "reviews", "7"])
    with pytest.raises(SystemExit, match="no version was served before"):
        roll_back(models, ["reviews", "other"])
    for name, version in (("..", "1"), ("reviews", ""), ("", "1")):
        with pytest.raises(SystemExit):
            main(["rollback", name, version])
    change_manifest(models / ".versions" / "1" / "reviews", schema_version=0)
    with pytest.raises(SystemExit, match="version 1 is not there, or this release cannot serve it"):
        main(["rollback"])
    assert served(models) == "2"
    assert len(list(list_versions(models))) == 1


def test_a_model_is_withdrawn_by_name_and_comes_back(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="other: it is not served"):
        main(["withdraw", "reviews", "other"])
    assert served(models) == "2"
    assert main(["withdraw", "reviews"]) == 0
    assert not (models / "reviews").is_symlink()
    told = capsys.readouterr().out
    assert "'rollback reviews' serves it again" in told
    assert "No model is left." in told
    assert main(["rollback", "reviews"]) == 0
    assert served(models) == "2"
    with pytest.raises(SystemExit, match="no version was served before"):
        main(["rollback", "reviews"])


@pytest.mark.parametrize("command", [[], ["rollback", "reviews", "1"], ["withdraw", "reviews"]])
def test_a_folder_that_was_put_there_by_hand_is_left_as_it_is(models: Path, command: list[str]) -> None:
    (models / "reviews").unlink()
    shutil.copytree(models / ".versions" / "2" / "reviews", models / "reviews")
    with pytest.raises(SystemExit, match="it was put there by hand, and is left as it is"):
        main(command)
    assert (models / "reviews" / "manifest.json").is_file()
    assert not list(models.glob(".*.new"))


def test_a_link_that_was_put_there_by_hand_is_the_version_before(models: Path, tmp_path: Path) -> None:
    elsewhere = (models / ".versions" / "1" / "reviews").rename(tmp_path / "elsewhere")
    (models / "reviews").unlink()
    (models / "reviews").symlink_to(elsewhere)
    assert main(["rollback", "reviews", "2"]) == 0
    assert served(models) == "2"
    assert main(["rollback"]) == 0
    assert (models / "reviews").resolve() == elsewhere


@pytest.mark.parametrize("command", ["versions", "rollback", "withdraw reviews"])
def test_a_folder_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("BERT_MODELS", str(tmp_path / "typo"))
    with pytest.raises(SystemExit, match="typo does not exist"):
        main(command.split())
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("command", ["rollback", "withdraw reviews"])
def test_a_full_disk_is_told_and_what_is_served_still_is(
    models: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def symlink(target: str, link: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(link))

    monkeypatch.setattr(os, "symlink", symlink)
    with pytest.raises(SystemExit, match="No space left on device"):
        main(command.split())
    assert served(models) == "2"


def move_often(models: Path, version: str, begin: Barrier) -> None:
    begin.wait(60)
    for _ in range(1000):
        serve_version(models, "reviews", models / ".versions" / version / "reviews")


def test_runs_at_the_same_time_leave_a_link_to_one_version_and_nothing_else(models: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(2)
    runs = [context.Process(target=move_often, args=(models, version, begin)) for version in ("1", "2")]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert {path.name for path in models.iterdir()} == {".lock", ".versions", "reviews", ".reviews.previous"}
    assert {served(models), (models / ".reviews.previous").resolve().parent.name} == {"1", "2"}
