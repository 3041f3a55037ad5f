"""Two small models. Ray is not part of the development environment: `deploy/ray/test.sh` installs it and runs these tests."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ModelsOf

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]

if find_spec("ray"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray's own modules are warned of is no error of ours
        import ray.serve.schema  # noqa: F401


@pytest.fixture(scope="session")
def models(models_of: ModelsOf) -> Path:
    return models_of({name: name for name in ("distilbert-two-labels", "bert-fill-mask")})
