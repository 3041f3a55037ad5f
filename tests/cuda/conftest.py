"""Bundles for a GPU, and the switches of the simulated one (`simulator/cudart.cpp`).

Every test here runs ONNX Runtime's own CUDA provider, in libraries of the `onnxruntime-gpu` wheel that are not changed. What
stands in is NVIDIA's part: runtime, cuBLAS and kernels. So the tests tell which kernels are asked for, on what data, in what
memory and in what order, and what the service makes of it; not how fast a card is, nor whether its kernels are right.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from model_export.export import GPU_VARIANTS
from tests.conftest import BundleOf
from tests.support import ROOT

GpuBundleOf = Callable[[str], Path]


def capabilities(code: str) -> list[str]:
    """Return the compute capabilities that docs/deploy.md says `yes` or `no` of: whether the wheel has code for them."""
    rows = re.findall(rf"^\| ([0-9., ]+) \| [^|]+ \| {code} \|$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    return [one for row in rows for one in row.split(", ")]


@pytest.fixture(scope="session")
def gpu_bundle_of(bundle_of: BundleOf) -> GpuBundleOf:
    """Export the checkpoint of an oracle for GPU and CPU, and return its folder."""
    return partial(bundle_of, variants=GPU_VARIANTS)


@dataclass(frozen=True)
class Gpu:
    """The simulated GPU of this process, and of those that it starts with `environment`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        names = {"LOG": "log", "FAULT": "fault", "IDLE": "idle"}
        return {f"SIMULATED_CUDA_{name}": str(self.folder / file) for name, file in names.items()}

    def idle(self) -> None:
        """Compute nothing from now on: for what takes a processor too long and whose answers nobody reads."""
        (self.folder / "idle").touch()

    def fail(self, error: int) -> None:
        """Fail for good at the next call, with a number of CUDA's."""
        (self.folder / "fault").write_text(str(error))

    def calls(self) -> list[str]:
        """What was asked of it since the last time: kernels, copies, waits."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu(tmp_path)
    for name, value in gpu.environment.items():
        monkeypatch.setenv(name, value)
    return gpu
