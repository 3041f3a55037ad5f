"""Bundles on disk: what is found, and what is told of those that are not whole."""

import json
import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import Bundle, describe_file, find_bundles, load_bundle
from app.bundle.manifest import BundleFile
from app.errors import BundleError
from tests.conftest import BundleOf
from tests.support import change_manifest


@pytest.fixture
def folder(tmp_path: Path, bundle_of: BundleOf) -> Path:
    """A bundle to break."""
    return shutil.copytree(bundle_of("bert-single-label"), tmp_path / "models" / "sentiment")


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


def test_a_bundle_is_named_after_its_folder(bundle: Bundle) -> None:
    assert bundle.name == "sentiment"
    assert bundle.manifest.name == "bert-single-label"
    assert [variant.name for variant in bundle.manifest.variants] == ["cpu-fp32"]


def test_every_file_is_as_it_was_exported(bundle: Bundle) -> None:
    manifest = bundle.manifest
    for file in (manifest.tokenizer, manifest.golden, manifest.variants[0].graph):
        assert bundle.verify_file(file) == bundle.folder / file.file
    assert bundle.golden.cases


def test_a_manifest_cannot_be_changed_by_accident(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="frozen"):
        bundle.manifest.max_length = 5  # type: ignore[misc]


def test_bundles_of_older_releases_are_read(folder: Path, bundle: Bundle) -> None:
    """They have another name for a parity figure, and no checksum."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for variant in manifest["variants"]:
        variant["parity"]["company_max_abs_diff"] = variant["parity"].pop("alone_max_abs_diff")
    manifest.pop("checksum")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert not load_bundle(folder).has_checksum
    assert load_bundle(folder).manifest == bundle.manifest


def edit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tokenizer.json", "golden.json", "cpu-fp32.onnx"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "is missing from the bundle"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "the copy is incomplete"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
        (edit, "its sha256 differs"),
    ],
    ids=["missing", "short", "empty", "edited"],
)
def test_a_changed_file_is_refused(bundle: Bundle, name: str, damage: Callable[[Path], None], says: str) -> None:
    damage(bundle.folder / name)
    manifest = bundle.manifest
    [file] = [file for file in (manifest.tokenizer, manifest.golden, manifest.variants[0].graph) if file.file == name]
    with pytest.raises(BundleError, match=says) as refused:
        bundle.verify_file(file)
    assert name in str(refused.value)
    assert "xport the model again" in str(refused.value)


def test_a_link_to_a_file_is_the_file(bundle: Bundle, tmp_path: Path) -> None:
    moved = shutil.move(bundle.folder / "tokenizer.json", tmp_path / "elsewhere")
    (bundle.folder / "tokenizer.json").symlink_to(moved)
    bundle.verify_file(bundle.manifest.tokenizer)


@pytest.mark.parametrize(
    "content", ["{}", '{"cases": []}', '{"cases": [{"text": 5}]}', "no JSON", '{"cases": [], "more": 1}']
)
def test_invalid_golden_answers_are_refused(folder: Path, content: str) -> None:
    (folder / "golden.json").write_text(content)
    change_manifest(folder, golden=describe_file(folder / "golden.json").model_dump())
    with pytest.raises(BundleError, match=r"golden\.json does not hold golden answers"):
        _ = load_bundle(folder).golden


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b"[]", "schema version None"),
        (b"null", "schema version None"),
        (b"{}", "schema version None, this server reads 1"),
        (
            b'{"schema_version": 2}',
            "schema version 2, this server reads 1: a newer release made it. Upgrade the server",
        ),
        (b'{"schema_version": "1"}', "schema version '1'"),
        (b'{"schema_version": 1}', "is damaged: name: Field required"),
    ],
)
def test_an_invalid_manifest_is_refused(folder: Path, manifest: bytes, says: str) -> None:
    (folder / "manifest.json").write_bytes(manifest)
    with pytest.raises(BundleError, match=r"manifest\.json") as refused:
        load_bundle(folder)
    assert says in str(refused.value)
    assert "xport the model again" in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "Translate to French"),
        ("max_length", 0),
        ("position_offset", -1),
        ("problem_type", "ranking"),
        ("variants", []),
        ("labels", "POSITIVE"),
        ("special_tokens", {}),
        ("tokenizer", {"file": "../../etc/passwd", "sha256": "", "size_bytes": 0}),
        ("tokenizer", {"file": "/etc/passwd", "sha256": "", "size_bytes": 0}),
        ("tokenizer", {"file": ".hidden", "sha256": "", "size_bytes": 0}),
    ],
)
def test_the_error_names_the_wrong_field(folder: Path, field: str, value: Any) -> None:
    change_manifest(folder, **{field: value})
    with pytest.raises(BundleError, match=f"manifest.json is .*: {field}"):
        load_bundle(folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no readable manifest\.json"):
        load_bundle(tmp_path)


def test_bundles_are_found_by_name(folder: Path, bundle_of: BundleOf) -> None:
    models = folder.parent
    (models / "masked").symlink_to(bundle_of("bert-fill-mask"))
    (models / "notes").mkdir()
    (models / "README.md").touch()
    assert [bundle.name for bundle in find_bundles(models)] == ["masked", "sentiment"]


@pytest.mark.parametrize("name", [".sentiment.new", "lost+found"])
def test_other_folders_beside_the_bundles_are_ignored(folder: Path, name: str) -> None:
    (folder.parent / name).symlink_to(folder)  # as a fill_models that was killed leaves one
    assert [bundle.name for bundle in find_bundles(folder.parent)] == ["sentiment"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Let permissions hold, which root does not ask for."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A models folder that everybody may read: pytest's own folders are for one user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700)


def test_lost_and_found_is_ignored(public: Path, bundle_of: BundleOf) -> None:
    shutil.copytree(bundle_of("bert-single-label"), public / "sentiment")
    (public / "sentiment").chmod(0o755)
    (public / "lost+found").mkdir()
    (public / "lost+found").chmod(0)
    with as_nobody():
        assert [bundle.name for bundle in find_bundles(public)] == ["sentiment"]


def test_the_error_names_an_unreadable_folder(public: Path) -> None:
    (public / "private").mkdir()
    (public / "private").chmod(0)
    for closed, models in ((public / "private", public), (public, public)):
        closed.chmod(0)
        with as_nobody(), pytest.raises(BundleError, match=f"^{closed}.* cannot be read: Permission denied"):
            find_bundles(models)


def test_the_error_names_an_unreadable_file(public: Path, bundle_of: BundleOf) -> None:
    shutil.copytree(bundle_of("bert-single-label"), public / "sentiment")
    (public / "sentiment").chmod(0o755)
    bundle = load_bundle(public / "sentiment")
    graph = bundle.manifest.variants[0].graph
    bundle.path(graph).chmod(0)
    with as_nobody(), pytest.raises(BundleError, match=rf"{graph.file} cannot be read: Permission denied"):
        bundle.verify_file(graph)


def test_the_models_folder_may_be_a_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bundle.name for bundle in find_bundles(folder)] == ["sentiment"]
    monkeypatch.chdir(folder)
    assert [bundle.name for bundle in find_bundles(Path())] == ["sentiment"]
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    assert [bundle.name for bundle in find_bundles(Path(".."))] == ["sentiment"]


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"does not exist.*model_export export.*--models"):
        find_bundles(tmp_path / "models")
    (tmp_path / "models" / "empty").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"No bundle in.*model_export export.*--models"):
        find_bundles(tmp_path / "models")


def test_one_broken_bundle_stops_the_start(folder: Path, bundle_of: BundleOf) -> None:
    (folder.parent / "masked").symlink_to(bundle_of("bert-fill-mask"))
    (folder / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="sentiment"):
        find_bundles(folder.parent)


def test_a_manifest_that_is_a_link_to_nothing_is_not_passed_over(folder: Path, bundle_of: BundleOf) -> None:
    (folder.parent / "whole").symlink_to(bundle_of("bert-fill-mask"))
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to(folder.parent / "gone")
    with pytest.raises(BundleError, match=r"manifest\.json is missing from the bundle"):
        find_bundles(folder.parent)


def test_a_file_describes_itself(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert describe_file(path) == BundleFile(file="file.json", sha256=digest, size_bytes=3)


def test_a_bundle_stays_where_it_is_when_a_link_leads_elsewhere(tmp_path: Path, bundle_of: BundleOf) -> None:
    link = tmp_path / "a"
    link.symlink_to(bundle_of("bert-single-label"))
    bundle = load_bundle(link)
    link.unlink()
    link.symlink_to(bundle_of("bert-embed"))
    bundle.verify()
    assert (bundle.name, bundle.folder) == ("a", bundle_of("bert-single-label").resolve())


def test_a_small_file_takes_little_memory_to_be_read(bundle_of: BundleOf) -> None:
    """Most that is read are 256 MiB, which a process with a limited address space may not have."""
    tracemalloc.start()
    try:
        bundle = load_bundle(bundle_of("bert-single-label"))
        assert bundle.golden.cases
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**24
