"""What importing this project does to the environment of other libraries."""

import json
import subprocess
import sys

import pytest

from tests.support import ROOT

SCRIPT = """
import importlib, json, os, sys
before = dict(os.environ)
importlib.import_module(sys.argv[1])
print(json.dumps({name: value for name, value in os.environ.items() if before.get(name) != value}))
"""
FOR_ONNX_RUNTIME = {
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_MIN_SEQ_LEN_EFFICIENT_ATTENTION_FP32": "0",
    "ORT_DISABLE_FUSED_ATTENTION": "1",
}


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        ("app", {}),
        ("app.engine.local", {}),
        ("app.runtime.session", FOR_ONNX_RUNTIME),
        ("model_export.check.runnable_graph", {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}),
    ],
)
def test_only_what_imports_onnx_runtime_sets_it_up(module: str, changes: dict[str, str]) -> None:
    command = [sys.executable, "-c", SCRIPT, module]
    told = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == changes
