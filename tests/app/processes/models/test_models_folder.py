"""When a change of the models folder is complete."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.bundle.files import Bundle, load_bundle
from app.processes.models.models_folder import ModelsFolder, Release
from tests.conftest import BundleOf


@pytest.fixture
def one(bundle_of: BundleOf) -> Path:
    return bundle_of("bert-single-label")


@pytest.fixture
def other(bundle_of: BundleOf) -> Path:
    return bundle_of("bert-multi-label")


@pytest.fixture
def models(tmp_path: Path, one: Path) -> Path:
    shutil.copytree(one, tmp_path / "models" / "a")
    return tmp_path / "models"


def served(models: Path, *names: str) -> dict[str, Release]:
    bundles = {name: load_bundle(models / name) for name in names}
    return {name: (bundle.identity, bundle.version) for name, bundle in bundles.items()}


def looks(folder: ModelsFolder, serves: Mapping[str, Release], count: int = 2) -> list[list[str]]:
    return [folder.changed(serves) for _ in range(count)]


def test_what_is_served_is_no_change_and_is_not_hashed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Bundle, "verify_file")
    assert looks(ModelsFolder(models), served(models, "a"), 3) == [[], [], []]


@pytest.mark.parametrize("how", ["rename", "link", "new name"])
def test_a_change_in_one_step_is_told_once_when_it_rests(models: Path, other: Path, tmp_path: Path, how: str) -> None:
    before = served(models, "a")
    name = "b" if how == "new name" else "a"
    folder = ModelsFolder(models)
    assert looks(folder, before) == [[], []]
    if how == "link":
        shutil.rmtree(models / "a")
        (models / ".a.new").symlink_to(other)
        (models / ".a.new").rename(models / "a")
    else:
        shutil.copytree(other, tmp_path / "new")
        if how == "rename":
            (models / "a").rename(tmp_path / "old")
        (tmp_path / "new").rename(models / name)
    assert looks(folder, before, 4) == [[], [name], [], []]


def test_the_same_bundle_of_another_version_is_a_change_and_is_not_hashed(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        shutil.copytree(models / "a", models / ".versions" / version / "a", copy_function=os.link)
    shutil.rmtree(models / "a")
    (models / "a").symlink_to(models / ".versions" / "1" / "a")
    before = served(models, "a")
    folder = ModelsFolder(models)
    monkeypatch.delattr(Bundle, "verify_file")
    assert looks(folder, before) == [[], []]
    (models / "new").symlink_to(models / ".versions" / "2" / "a")
    (models / "new").rename(models / "a")
    assert looks(folder, before, 3) == [[], ["a"], []]


def test_a_file_that_is_mended_and_keeps_its_time_is_a_change(models: Path, other: Path) -> None:
    shutil.copytree(other, models / "b")
    graph = models / "b" / "cpu-fp32.onnx"
    content, times = graph.read_bytes(), graph.stat()
    graph.write_bytes(bytes(len(content)))
    os.utime(graph, ns=(times.st_atime_ns, times.st_mtime_ns))
    folder, before = ModelsFolder(models), served(models, "a")
    assert looks(folder, before) == [[], []]
    graph.write_bytes(content)
    os.utime(graph, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert looks(folder, before) == [[], ["b"]]


def test_a_link_to_another_target_and_back_is_two_changes(tmp_path: Path, one: Path, other: Path) -> None:
    """As in volumes of Kubernetes, where each file is a link through ..data, too."""
    bundle = tmp_path / "models" / "a"
    bundle.mkdir(parents=True)
    for version, source in (("..1", one), ("..2", other)):
        shutil.copytree(source, bundle / version)
    data = bundle / "..data"
    data.symlink_to("..1")
    for name in sorted({path.name for source in (one, other) for path in source.iterdir()}):
        (bundle / name).symlink_to(Path("..data", name))
    folder = ModelsFolder(bundle.parent)
    serves = served(bundle.parent, "a")
    assert looks(folder, serves) == [[], []]
    for target in ("..2", "..1"):
        (bundle / "..new").symlink_to(target)
        (bundle / "..new").rename(data)
        assert looks(folder, serves, 3) == [[], ["a"], []]
        serves = served(bundle.parent, "a")


def test_a_bundle_that_is_copied_in_place_is_told_when_its_last_file_is_there(
    models: Path, other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The manifest is copied first: the graph of another version may have the size that it tells."""
    before = served(models, "a")
    folder = ModelsFolder(models)
    assert looks(folder, before) == [[], []]
    files = sorted(other.iterdir(), key=lambda path: path.name != "manifest.json")
    for path in files[:-1]:
        half = path.read_bytes()
        (models / "a" / path.name).write_bytes(half[: len(half) // 2])
        assert looks(folder, before) == [[], []]
        shutil.copyfile(path, models / "a" / path.name)
        assert looks(folder, before) == [[], []]
    assert caplog.text.count("incomplete") == 1
    shutil.copyfile(files[-1], models / "a" / files[-1].name)
    assert looks(folder, before, 3) == [[], ["a"], []]


def test_files_that_have_the_right_size_and_another_content_are_incomplete(
    models: Path, one: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = models / "a" / load_bundle(one).manifest.variants[0].graph.file
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    folder = ModelsFolder(models)
    assert looks(folder, {}, 5) == [[], [], [], [], []]
    assert caplog.text.count("incomplete") == 1
    graph.write_bytes(content)
    assert looks(folder, {}, 3) == [[], ["a"], []]


def test_a_bundle_is_gone_when_its_folder_is_and_not_when_its_manifest_is(
    models: Path, one: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(one, models / "b")
    serves = served(models, "a", "b")
    folder = ModelsFolder(models)
    assert looks(folder, serves) == [[], []]
    (models / "a" / "manifest.json").unlink()
    assert looks(folder, serves, 3) == [[], [], []]
    assert caplog.text.count("a is incomplete") == 1
    shutil.rmtree(models / "a")
    assert looks(folder, serves, 3) == [[], ["a"], []]


def test_a_folder_that_is_empty_or_not_there_changes_nothing(models: Path) -> None:
    serves = served(models, "a")
    folder = ModelsFolder(models)
    assert looks(folder, serves) == [[], []]
    shutil.rmtree(models / "a")
    assert looks(folder, serves) == [[], []]
    models.rmdir()
    assert looks(folder, serves) == [[], []]


def test_one_bundle_and_a_link_to_a_folder_are_watched_too(tmp_path: Path, models: Path, other: Path) -> None:
    (tmp_path / "other" / "a").parent.mkdir()
    (tmp_path / "other" / "a").symlink_to(other)
    link = tmp_path / "link"
    for before, after in ((models, tmp_path / "other"), (models / "a", other)):
        link.unlink(missing_ok=True)
        link.symlink_to(before)
        name = "a" if before == models else "link"
        serves = {name: (load_bundle(models / "a").identity, None)}
        folder = ModelsFolder(link)
        assert looks(folder, serves) == [[], []]
        (tmp_path / "new").symlink_to(after)
        (tmp_path / "new").rename(link)
        assert looks(folder, serves) == [[], [name]]
