"""What is exported if nobody names variants: what this machine can use, without what is not accurate enough."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from app.bundle.files import load_bundle
from model_export.errors import ExportError
from model_export.export import CPU_VARIANTS, GPU_VARIANTS, ExportOptions, default_variants, export
from model_export.report import print_bundle
from model_export.verify import verify_bundle

Copy = Callable[..., Path]

TOO_STRICT = "model_export.check.tolerances.MOST_SCORE_DIFFERENCE"


@pytest.fixture(params=["a driver", "no driver"])
def has_driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the machine has a GPU's driver, in the form of a library that can be loaded."""

    def load(_: str) -> None:
        if request.param == "no driver":
            raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    return request.param == "a driver"


def test_a_machine_without_a_driver_gets_no_graphs_for_a_gpu(has_driver: bool) -> None:
    assert default_variants() == (GPU_VARIANTS if has_driver else CPU_VARIANTS)


def test_a_default_variant_that_is_not_accurate_is_left_out_and_the_rest_is_served(
    copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TOO_STRICT, 1e-6)
    monkeypatch.setattr("model_export.export.default_variants", lambda: GPU_VARIANTS)
    warnings: list[str] = []
    output = tmp_path / "mood"
    export(ExportOptions(str(copy_of("bert-single-label")), output), lambda _: None, warnings.append)

    bundle = load_bundle(output)
    assert [variant.name for variant in bundle.manifest.variants] == ["cpu-fp32", "cuda-fp32"]
    assert sorted(path.name for path in output.iterdir() if path.suffix == ".onnx") == [
        "cpu-fp32.onnx",
        "cuda-fp32.onnx",
    ]
    assert bundle.manifest.left_out is not None
    [(name, reason)] = bundle.manifest.left_out.items()
    assert name == "cuda-fp16"
    assert reason.startswith("The scores of cuda-fp16 differ from the reference by ")
    assert warnings == [f"cuda-fp16 is left out of the bundle: {reason} The other variants are not affected."]

    print_bundle("Verified", bundle.manifest, verify_bundle(bundle, lambda _: None), 1.0)
    shown = capsys.readouterr().out
    assert "cuda-fp16  left out" in shown
    assert f"Left out: {reason}\n" in shown


def test_an_export_that_leaves_nothing_fails(copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.export.default_variants", lambda: ("cuda-fp16", "cpu-fp32"))
    options = ExportOptions(str(copy_of("bert-single-label")), tmp_path / "mood", tolerance=1e-9)
    with pytest.raises(
        ExportError, match=r"cpu-fp32 differs .* 1e-09 is allowed\. No other variant is left\. .* --tolerance"
    ):
        export(options, lambda _: None)
    assert not (tmp_path / "mood").exists()
