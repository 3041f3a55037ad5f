"""`--skip-bad-bundles`: one bundle that cannot be loaded does not stop the others, and everybody is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.bundle.files import describe_file
from tests.conftest import BundleOf
from tests.support import change_manifest, run_app, serving


def damage_the_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{")


def damage_the_tokenizer(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_bytes(b"\xff")


def damage_the_graph(bundle: Path) -> None:
    (bundle / "cpu-fp32.onnx").unlink()


def come_from_a_newer_release(bundle: Path) -> None:
    change_manifest(bundle, schema_version=2)


def be_for_another_task(bundle: Path) -> None:
    change_manifest(bundle, task="summarize")


@pytest.fixture
def models(tmp_path: Path, bundle_of: BundleOf) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copytree(bundle_of("bert-fill-mask"), folder / "broken")
    (folder / "whole").symlink_to(bundle_of("bert-single-label"))
    return folder


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("damage", [damage_the_manifest, damage_the_graph])
def test_the_other_models_are_served_and_it_is_told(models: Path, damage: Callable[[Path], None], workers: str) -> None:
    damage(models / "broken")
    arguments = ("--skip-bad-bundles", "--workers", workers, "--default-models", "fill-mask=broken")
    with serving(models, *arguments) as server:
        assert server.post("/v1/classify", {"inputs": "It is fine."}).status == 200
        for asked in ({"model": "broken"}, {}):
            refused = server.post("/v1/fill-mask", {"inputs": "It is [MASK]."} | asked)
            assert refused.status == 503
            assert "could not be loaded" in refused.error
        assert server.ask("GET", "/readyz").json == {"status": "ready", "failed_models": ["broken"]}
        assert [model["name"] for model in server.ask("GET", "/v1/models").json["models"]] == ["whole"]
        assert server.metric("bert_model_load_failures", model="broken") == 1
        told = [record["message"] for record in server.records if record["level"] == "error"]
        assert told
        assert all("model broken is not served" in message for message in told)
        assert server.stop() == 0


@pytest.mark.parametrize("damage", [damage_the_tokenizer, come_from_a_newer_release, be_for_another_task])
def test_any_bundle_that_cannot_be_loaded_is_skipped(models: Path, damage: Callable[[Path], None]) -> None:
    damage(models / "broken")
    with serving(models, "--skip-bad-bundles", "--precision", "fp32,broken=fp32") as server:
        assert server.ask("GET", "/readyz").json == {"status": "ready", "failed_models": ["broken"]}


def test_a_bundle_without_the_precision_of_its_name_is_skipped(models: Path) -> None:
    with serving(models, "--skip-bad-bundles", "--precision", "auto,broken=int8") as server:
        assert server.ask("GET", "/readyz").json == {"status": "ready", "failed_models": ["broken"]}
        assert server.post("/v1/classify", {"inputs": "It is fine."}).status == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_any_model_the_start_ends(models: Path, workers: str) -> None:
    (models / "whole").unlink()
    damage_the_tokenizer(models / "broken")
    ended = run_app("--models", str(models), "--skip-bad-bundles", "--workers", workers, BERT_PORT="0")
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "None of the bundles can be served: broken" in ended.stderr


def test_by_default_a_bad_bundle_ends_the_start(models: Path) -> None:
    path = models / "broken" / "tokenizer.json"
    path.write_bytes(b"\xff")
    change_manifest(models / "broken", tokenizer=describe_file(path).model_dump())
    ended = run_app("--models", str(models), BERT_PORT="0")
    assert ended.returncode == 1
    [complaint] = [json.loads(line)["message"] for line in ended.stderr.splitlines() if '"critical"' in line]
    assert "tokenizer.json is not a tokenizer that this server can read" in complaint
