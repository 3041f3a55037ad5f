"""Shared by the tests of ONNX Runtime's package."""

import shutil
from pathlib import Path

import onnxruntime as ort
import pytest

from app.bundle.files import Bundle, load_bundle
from tests.app.runtime.machines import Gpu, graph_of, put, with_variants
from tests.conftest import BundleOf


@pytest.fixture
def folder(tmp_path: Path, bundle_of: BundleOf) -> Path:
    return shutil.copytree(bundle_of("bert-single-label"), tmp_path / "sentiment")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    return Gpu(monkeypatch)


@pytest.fixture
def both(folder: Path) -> Bundle:
    """A bundle for CPU and CUDA."""
    with_variants(folder, ("cpu", "fp32"), ("cuda", "fp16"))
    put(folder, "cuda-fp16.onnx", graph_of("input_ids", "cu_seqlens"))
    return load_bundle(folder)
