"""Weight files: shards, half precisions, pickles."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model_export.checkpoint.weights import open_weights, sha256_of
from model_export.errors import ExportError
from tests.model_export.support import CHECKPOINTS, network_of

Copy = Callable[..., Path]


def shard(folder: Path) -> list[str]:
    """Split the weights of a checkpoint over two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return list(files)


def test_shards_are_read_as_one(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    whole = network_of(folder, "classify")
    files = shard(folder)
    sharded = network_of(folder, "classify")
    assert [path.name for path in open_weights(folder).files] == files
    assert sharded.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(sharded.tensors[name], tensor)


def test_missing_shard_is_named(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    _, lost = shard(folder)
    (folder / lost).unlink()
    with pytest.raises(ExportError, match=f"lacks {lost}, which model.safetensors.index.json names"):
        open_weights(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "does not have the expected content"),
        ('{"weight_map": 3}', "is not an index of weight files"),
        ('{"weight_map": {}}', "is not an index of weight files"),
        (
            '{"weight_map": {"a": "../model.safetensors"}}',
            r"names '\.\./model\.safetensors', which is no file beside it",
        ),
        ('{"weight_map": {"a": "/etc/hostname"}}', "names '/etc/hostname', which is no file beside it"),
        ('{"weight_map": {"a": ""}}', "names '', which is no file beside it"),
    ],
)
def test_damaged_index(copy_of: Copy, content: str, expected: str) -> None:
    folder = copy_of("bert-single-label")
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ExportError, match=expected):
        open_weights(folder)


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_truncated_safetensors(copy_of: Copy, kept: float) -> None:
    path = copy_of("bert-single-label") / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ExportError, match="is not a complete safetensors file"):
        open_weights(path.parent)


@pytest.mark.parametrize("name", ["camembert-regression", "electra-fill-mask"])
def test_half_precisions_are_widened(name: str) -> None:
    header = (CHECKPOINTS / name / "model.safetensors").read_bytes()[:200]
    assert b'"F16"' in header or b'"BF16"' in header
    network = network_of(CHECKPOINTS / name, "fill-mask" if "fill-mask" in name else "classify")
    assert {tensor.dtype for tensor in network.tensors.values()} == {np.dtype(np.float32)}


def test_hash_is_over_every_file(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    _, second = shard(folder)
    before = sha256_of(open_weights(folder).files)
    content = bytearray((folder / second).read_bytes())
    content[-1] ^= 1
    (folder / second).write_bytes(content)
    assert sha256_of(open_weights(folder).files) != before


def test_pickle_without_torch(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of("bert-single-label")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ExportError, match="is a pickle, which only torch reads safely, but torch is not installed"):
        open_weights(folder)


@pytest.mark.torch
def test_pickle_with_torch(copy_of: Copy) -> None:
    import torch  # noqa: PLC0415  # not installed for the other tests

    folder = copy_of("bert-single-label")
    expected = network_of(folder, "classify")
    state = {name: torch.from_numpy(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    network = network_of(folder, "classify")
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(network.tensors[name], tensor)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("pwned"),))  # type: ignore[return-value]


@pytest.mark.torch
def test_pickle_that_runs_code_is_refused(copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copy_of("bert-single-label")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Malicious()}))
    with pytest.raises(ExportError, match="weights_only=True"):
        open_weights(folder)
    assert not (tmp_path / "pwned").exists()


def test_older_names_of_norms_are_known() -> None:
    folder = CHECKPOINTS / "bert-fill-mask-chinese-untied"
    assert "bert.embeddings.LayerNorm.gamma" in open_weights(folder).tensors
    assert "embeddings_norm.weight" in network_of(folder, "fill-mask").tensors


def test_decoder_stored_beside_the_equal_embeddings_is_one(copy_of: Copy) -> None:
    folder = copy_of("bert-fill-mask")
    tied = network_of(folder, "fill-mask")

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    save_file(tensors, path, metadata={"format": "pt"})
    both = network_of(folder, "fill-mask")
    assert tied.is_tied
    assert both.is_tied
    assert both.parameters == tied.parameters

    tensors["cls.predictions.decoder.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert not network_of(folder, "fill-mask").is_tied


def test_tied_matrix_stored_as_the_decoder_alone(copy_of: Copy) -> None:
    folder = copy_of("bert-fill-mask")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["cls.predictions.decoder.weight"] = tensors.pop("bert.embeddings.word_embeddings.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    assert network_of(folder, "fill-mask").is_tied
