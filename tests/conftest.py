"""What holds for every test, and the bundles and the server that many of them share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from model_export.export import ExportOptions, export
from tests.support import ROOT, ServerProcess, serving

# The same examples in every run, and no limit to how long a busy machine may take for one.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None)
hypothesis.settings.load_profile("tests")

BundleOf = Callable[[str], Path]

SHARED_MODELS = {
    "sentiment": "bert-single-label",
    "toxicity": "xlm-roberta-multi-label",
    "masked": "bert-fill-mask",
}


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    """Export a checkpoint of the fixtures for the CPU, once, and return its folder. Nobody may change it."""
    folder = tmp_path_factory.mktemp("exported")

    def bundle_of(name: str) -> Path:
        if not (folder / name).exists():
            checkpoint = str(ROOT / "tests" / "fixtures" / "checkpoints" / name)
            export(ExportOptions(checkpoint, folder / name, variants=["cpu-fp32"]), lambda _: None)
        return folder / name

    return bundle_of


@pytest.fixture(scope="session")
def shared_models(tmp_path_factory: pytest.TempPathFactory, bundle_of: BundleOf) -> Path:
    """A folder with two classifiers and a masked-token model."""
    folder = tmp_path_factory.mktemp("shared")
    for name, checkpoint in SHARED_MODELS.items():
        (folder / name).symlink_to(bundle_of(checkpoint))
    return folder


@pytest.fixture(scope="session")
def shared_server(shared_models: Path) -> Iterator[ServerProcess]:
    """One server for every test that leaves it as it was."""
    with serving(shared_models, "--threads", "1") as server:
        yield server
        assert server.stop() == 0, server.log
