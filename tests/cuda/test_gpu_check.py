"""`make gpu-check` itself: every part that a processor can stand in for, from the command line to the results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.cuda

PARTS = ["memory", "cuda-graphs"]  # of parity there is more in `test_answers`; the others take a processor too long


def test_parts_run_and_pass(tmp_path: Path) -> None:
    command = (
        *(sys.executable, "-m", "benchmarks.gpu_check", "--form", "smoke", "--parts", ",".join(PARTS)),
        *("--results", str(tmp_path), "--cache", str(tmp_path / "cache"), "--export-python", sys.executable),
    )
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "gpu-simulated-gpu.json").read_text())
    assert list(results["parts"]) == PARTS
    assert not any("failed" in part or "not_run" in part for part in results["parts"].values())
    for graph in results["parts"]["cuda-graphs"]["rows"]:
        assert graph["answers_off"] == 0
