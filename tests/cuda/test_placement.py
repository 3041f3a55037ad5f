"""What a batch asks of the GPU: kernels, copies and waits."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.bundle.manifest import Precision
from model_export.export import GPU_VARIANTS
from tests.conftest import BundleOf
from tests.cuda.conftest import GpuBundleOf, capabilities
from tests.model_export.support import narrowed
from tests.oracle.answers import Oracle, each_oracle
from tests.support import ROOT

pytestmark = pytest.mark.cuda

FLASH = "flash::flash_fwd_kernel<"
MEMORY_EFFICIENT = "attention_kernel_batched_impl<"
PADDED = re.compile("Transpose|Padding|TokenOffset")


@dataclass(frozen=True)
class Asked:
    """One batch's calls. Kernels by the name of their function, with all its parameters; copies between host and device."""

    nodes_on_cpu: list[str]
    kernels: list[str]
    copies: list[str]
    waits: int

    def count(self, kernel: str) -> int:
        return sum(kernel in one for one in self.kernels)


def replay(bundle: Path, precision: Precision, folder: Path, capability: str = "9.0") -> Asked:
    """Hold a bundle to its golden answers on a card of some compute capability, and run all of them in one batch more."""
    calls = folder / "calls"
    command = [sys.executable, "-m", "tests.cuda.replay", str(bundle), precision, str(calls)]
    environment = os.environ | {"SIMULATED_CUDA_CAPABILITY": capability}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = calls.read_text().splitlines()
    return Asked(
        json.loads(ended.stdout)["nodes_on_cpu"],
        [line.removeprefix("kernel ") for line in lines if line.startswith("kernel ")],
        [line for line in lines if line.startswith("copy ") and not line.endswith(" within")],
        sum(line.startswith("wait") for line in lines),
    )


@each_oracle(demo=False)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_everything_runs_on_the_gpu(
    oracle: Oracle, precision: Precision, gpu_bundle_of: GpuBundleOf, tmp_path: Path
) -> None:
    asked = replay(gpu_bundle_of(oracle.name), precision, tmp_path)
    assert asked.nodes_on_cpu == []
    [upload, *answers] = asked.copies
    assert upload.endswith("to device"), "all inputs go in one copy"
    assert len(answers) == (2 if oracle.task == "fill-mask" else 1)
    assert all(answer.endswith("to host") for answer in answers)
    assert asked.waits == 1
    if precision == "fp16":
        assert asked.count(FLASH)
        assert not asked.count(MEMORY_EFFICIENT)
    else:
        assert asked.count(MEMORY_EFFICIENT)
    assert not [kernel for kernel in asked.kernels if PADDED.search(kernel)], "nothing is padded"


@pytest.mark.parametrize("capability", capabilities("yes"))
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_no_card_pads(precision: Precision, capability: str, gpu_bundle_of: GpuBundleOf, tmp_path: Path) -> None:
    asked = replay(gpu_bundle_of("bert-single-label"), precision, tmp_path, capability)
    has_flash = precision == "fp16" and capability != "7.5"
    assert asked.count(FLASH if has_flash else MEMORY_EFFICIENT)
    assert not asked.count("Transpose")
    assert asked.nodes_on_cpu == []


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ["bert-entities", "bert-embed"])
@pytest.mark.parametrize(("hidden", "heads"), [(32, 16), (30, 3)])
def test_no_head_size_pads(
    name: str, hidden: int, heads: int, precision: Precision, bundle_of: BundleOf, tmp_path: Path
) -> None:
    """Heads of 2 and of 10, and a mean over a hidden size that is not a multiple of 8."""
    folder = narrowed(name, tmp_path / f"{name}-{hidden}-{heads}", hidden=hidden, heads=heads)
    asked = replay(bundle_of(folder, variants=GPU_VARIANTS), precision, tmp_path)
    assert asked.count(FLASH if precision == "fp16" else MEMORY_EFFICIENT)
    assert not [kernel for kernel in asked.kernels if PADDED.search(kernel)]
    assert asked.nodes_on_cpu == []
