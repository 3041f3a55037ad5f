"""Which of NVIDIA's libraries the deployed environment must have."""

import tomllib
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement

from tests.support import ROOT

pytestmark = pytest.mark.cuda


def test_everything_here_runs_without_what_the_gpu_extra_lacks() -> None:
    """cuDNN and cuFFT are 1.3 GB. Were one of them in this environment, the other tests would not show that it can go."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    deployed = {Requirement(text).name for text in extras["gpu"]}
    here = {distribution.name for distribution in distributions() if distribution.name.startswith("nvidia-")}
    assert here <= deployed | {"nvidia-cuda-crt"}  # the headers
