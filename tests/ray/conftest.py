"""Two small models. Ray is not part of the development environment: `deploy/ray/test.sh` installs it and runs these tests."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import BundleOf

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]

if find_spec("ray"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray's own modules are warned of is no error of ours
        import ray.serve.schema  # noqa: F401


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, bundle_of: BundleOf) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("distilbert-two-labels", "bert-fill-mask"):
        (folder / name).symlink_to(bundle_of(name))
    return folder
