"""How the models folder of a deployment is filled: real exports of small checkpoints."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from app.bundle import find_bundles
from deploy.fill_models import DEMO_CHECKPOINT, Model, fill, models_to_fill, withdraw_others

ROOT = Path(__file__).parents[2]
SINGLE = Model(
    "sentiment",
    "auto",
    version="1",
    checkpoint="tests/fixtures/checkpoints/bert-single-label",
    revision="",
    variants="cpu-fp32",
)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def first_fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        fill(models, SINGLE)
    return models


@pytest.fixture
def filled(first_fill: Path, tmp_path: Path) -> Path:
    """A folder of its own in which version 1 is served."""
    return Path(shutil.copytree(first_fill, tmp_path / "models", symlinks=True))


def served(models: Path) -> dict[str, str]:
    """Return the version of each model that a server would find."""
    return {bundle.name: bundle.folder.resolve().parent.name for bundle in find_bundles(models)}


def test_a_version_is_made_once_and_kept_for_the_way_back(filled: Path) -> None:
    assert served(filled) == {"sentiment": "1"}
    made = (filled / "sentiment" / "manifest.json").stat()

    fill(filled, replace(SINGLE, version="2", checkpoint="tests/fixtures/checkpoints/bert-multi-label"))
    assert served(filled) == {"sentiment": "2"}

    fill(filled, SINGLE)
    assert served(filled) == {"sentiment": "1"}
    assert (filled / "sentiment" / "manifest.json").stat().st_ino == made.st_ino


def test_a_bundle_that_lacks_a_variant_or_is_damaged_is_made_again(filled: Path) -> None:
    fill(filled, replace(SINGLE, variants="cpu-fp32,cuda-fp32"))
    (bundle,) = find_bundles(filled)
    assert {variant.name for variant in bundle.manifest.variants} == {"cpu-fp32", "cuda-fp32"}

    manifest = filled / "sentiment" / "manifest.json"
    manifest.write_text('{"schema_version": 0}')
    fill(filled, SINGLE)
    assert served(filled) == {"sentiment": "1"}


def test_an_export_that_fails_changes_nothing(filled: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        fill(filled, replace(SINGLE, version="2", checkpoint=str(filled / "nowhere")))
    assert served(filled) == {"sentiment": "1"}


def test_what_is_no_longer_asked_for_is_no_longer_served(tmp_path: Path) -> None:
    version = tmp_path / ".versions" / "1" / "old"
    version.mkdir(parents=True)
    (tmp_path / "old").symlink_to(os.path.relpath(version, tmp_path))
    by_hand = tmp_path / "by-hand"
    by_hand.mkdir()
    withdraw_others(tmp_path, [SINGLE])
    assert version.exists()
    assert by_hand.exists()
    assert not (tmp_path / "old").is_symlink()


def test_without_a_name_the_demo_models_are_served() -> None:
    models = models_to_fill({"MODEL_NAME": "", "MODEL_VERSION": "", "CHECKPOINT": ""})
    assert {(model.name, model.task) for model in models} == {("sentiment", "classify"), ("masked-token", "fill-mask")}
    assert {(model.version, model.checkpoint) for model in models} == {("1", DEMO_CHECKPOINT)}
    assert (ROOT / DEMO_CHECKPOINT).is_dir()


def test_a_model_is_what_the_environment_says() -> None:
    environment = {
        "MODEL_NAME": "topics",
        "MODEL_TASK": "classify",
        "MODEL_VERSION": "7",
        "MODEL_VARIANTS": "cpu-fp32",
        "CHECKPOINT": "organization/model",
        "CHECKPOINT_REVISION": "abc",
    }
    assert models_to_fill(environment) == [
        Model("topics", "classify", version="7", checkpoint="organization/model", revision="abc", variants="cpu-fp32")
    ]


@pytest.mark.parametrize("variable", ["MODEL_NAME", "MODEL_VERSION"])
@pytest.mark.parametrize("value", ["organization/model", "..", ".versions", "a b"])
def test_what_is_no_folder_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(SystemExit, match=variable):
        models_to_fill({variable: value})
