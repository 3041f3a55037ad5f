"""`verify` finds what is wrong with a bundle without its checkpoint."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.bundle.checksum import sealed
from app.bundle.files import Bundle, describe_file, load_bundle
from app.bundle.manifest import Golden, Manifest
from app.errors import BundleError
from model_export.errors import ExportError
from model_export.verify import verify_bundle


@pytest.fixture(params=["bert-single-label", "roberta-fill-mask", "bert-answer", "bert-embed"])
def bundle(request: pytest.FixtureRequest, bundles: Mapping[str, Bundle], tmp_path: Path) -> Bundle:
    """A copy of a bundle to damage."""
    return load_bundle(shutil.copytree(bundles[request.param].folder, tmp_path / request.param))


def rewrite_manifest(bundle: Bundle) -> Bundle:
    """Give a manifest the hashes of the files as they are now."""
    manifest = bundle.manifest
    updated = manifest.model_copy(
        update={
            "golden": describe_file(bundle.path(manifest.golden)),
            "tokenizer": describe_file(bundle.path(manifest.tokenizer)),
            "variants": tuple(
                variant.model_copy(update={"graph": describe_file(bundle.path(variant.graph))})
                for variant in manifest.variants
            ),
        }
    )
    assert isinstance(updated, Manifest)
    (bundle.folder / "manifest.json").write_text(sealed(updated.model_dump_json(exclude_none=True)))
    return load_bundle(bundle.folder)


def test_whole_bundle(bundle: Bundle) -> None:
    steps: list[str] = []
    measured = verify_bundle(bundle, steps.append)
    assert list(measured) == ["cpu-fp32", "cuda-fp16", "cuda-fp32"]
    assert measured["cpu-fp32"].alone_max_abs_diff == 0.0
    assert 0 < measured["cpu-fp32"].reference_max_abs_diff < 5e-5
    assert steps[-1] == "Checking cuda-fp32"


@pytest.mark.parametrize("file", ["cpu-fp32.onnx", "cuda-fp16.onnx", "cuda-fp32.onnx", "tokenizer.json", "golden.json"])
def test_flipped_bit(bundle: Bundle, file: str) -> None:
    content = bytearray((bundle.folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.folder / file).write_bytes(content)
    with pytest.raises(BundleError, match=f"{file} is not the file that was exported"):
        verify_bundle(bundle, lambda _: None)


def test_golden_answer_that_is_not_the_graphs(bundle: Bundle) -> None:
    golden = json.loads((bundle.folder / "golden.json").read_text())
    case = golden["cases"][3]
    [told] = [case[name] for name in ("logits", "masks", "token_logits", "embedding") if name in case]
    row = told[0]["scores"] if "masks" in case else told[-1] if "token_logits" in case else told
    row[0] += 1e-3
    (bundle.folder / "golden.json").write_text(Golden.model_validate(golden).model_dump_json(exclude_none=True))
    with pytest.raises(ExportError, match=r"cpu-fp32 differs from the reference by 0\.001"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)


def test_tokenizer_that_cuts_otherwise(bundle: Bundle) -> None:
    path = bundle.folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = None
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ExportError, match="tokenizes the golden texts differently"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)


@pytest.mark.parametrize("variant", ["cpu-fp32", "cuda-fp16"])
def test_graph_that_is_no_graph(bundle: Bundle, variant: str) -> None:
    path = bundle.folder / f"{variant}.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match=f"{variant}.onnx cannot be loaded"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"{}"])
def test_tokenizer_that_is_none(bundle: Bundle, content: bytes) -> None:
    (bundle.folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ExportError, match="are not of one model, or damaged"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)


def test_tokenizer_that_the_library_panics_on(bundle: Bundle) -> None:
    path = bundle.folder / "tokenizer.json"
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": normalizer}))
    with pytest.raises(ExportError, match="are not of one model, or damaged"):
        verify_bundle(rewrite_manifest(bundle), lambda _: None)
