"""A bundle of each of two tasks, and its runner, for what happens when a model is loaded."""

import pytest

from app.bundle.files import Bundle, load_bundle
from app.runtime.runner import OrtRunner
from model_export.export import ExportOptions, export
from tests.support import ROOT


@pytest.fixture(scope="module", params=["bert-single-label", "roberta-fill-mask", "bert-entities", "bert-embed"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / request.param
    export(
        ExportOptions(str(ROOT / "tests/fixtures/checkpoints" / request.param), folder, variants=["cpu-fp32"]), print
    )
    return load_bundle(folder)


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> OrtRunner:
    return OrtRunner(bundle, bundle.manifest.variants[0], threads=1)
