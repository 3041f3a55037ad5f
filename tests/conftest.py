"""What holds for every test, and the bundles and the server that many of them share."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import hypothesis
import pytest
from filelock import FileLock

from model_export.export import ExportOptions, export
from model_export.tasks import TASKS
from tests.support import CHECKPOINTS, DEMO_CHECKPOINT, ServerProcess, serving

# Nothing that a test measures is kept for the next one, nor in the home of whoever runs it.
os.environ["BERT_TUNING_CACHE"] = "false"

# The same examples in every run, and no limit to how long a busy machine may take for one.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None)
hypothesis.settings.load_profile("tests")


class BundleOf(Protocol):
    """Export a checkpoint, once for all tests and workers of a run, and return the bundle's folder, to be read only.

    It is a folder, or the name of a fixture; `demo-TASK` is the demo checkpoint with the head of a task.
    """

    def __call__(self, checkpoint: str | Path, variants: Sequence[str] = ("cpu-fp32",)) -> Path: ...


class ModelsOf(Protocol):
    """Return a new folder to serve, with a bundle under each of the names; checkpoints as in `BundleOf`."""

    def __call__(self, checkpoints: Mapping[str, str]) -> Path: ...


DEMO_TASKS: Final[Mapping[str, str]] = {f"demo-{task}": task for task in TASKS}
SHARED_MODELS = {
    "sentiment": "bert-single-label",
    "toxicity": "xlm-roberta-multi-label",
    "masked": "bert-fill-mask",
}


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    temporary = tmp_path_factory.getbasetemp()
    # A worker of pytest-xdist has a folder in that of the run.
    shared = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "bundles"

    def bundle_of(checkpoint: str | Path, variants: Sequence[str] = ("cpu-fp32",)) -> Path:
        name = Path(checkpoint).name
        bundle = shared / "+".join(variants) / name
        bundle.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{bundle}.lock"):
            if not bundle.exists():
                demo = DEMO_TASKS.get(name)
                source = DEMO_CHECKPOINT if demo else CHECKPOINTS / checkpoint  # a whole path stays as it is
                export(ExportOptions(str(source), bundle, demo or "auto", variants), lambda _: None)
        return bundle

    return bundle_of


@pytest.fixture(scope="session")
def models_of(tmp_path_factory: pytest.TempPathFactory, bundle_of: BundleOf) -> ModelsOf:
    def models_of(checkpoints: Mapping[str, str]) -> Path:
        folder = tmp_path_factory.mktemp("models")
        for name, checkpoint in checkpoints.items():
            (folder / name).symlink_to(bundle_of(checkpoint))
        return folder

    return models_of


@pytest.fixture(scope="session")
def shared_models(models_of: ModelsOf) -> Path:
    """A folder with two classifiers and a masked-token model."""
    return models_of(SHARED_MODELS)


@pytest.fixture(scope="session")
def shared_server(shared_models: Path) -> Iterator[ServerProcess]:
    """One server for every test that leaves it as it was."""
    with serving(shared_models, "--threads", "1", "--batch-tokens", "0") as server:
        yield server
        assert server.stop() == 0, server.log
