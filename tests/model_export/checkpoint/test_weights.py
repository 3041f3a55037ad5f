"""Weight files: shards, half precisions, pickles."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model_export.checkpoint.weights import open_weights, sha256_of
from model_export.errors import ExportError
from tests.model_export.support import CHECKPOINTS, edit_tensors, network_of

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


@pytest.mark.torch
@pytest.mark.parametrize("is_zip", [True, False])
def test_pickle_is_read_as_torch_wrote_it(copy_of: Copy, is_zip: bool) -> None:
    import torch  # noqa: PLC0415  # not installed for the other tests

    folder = copy_of("bert-single-label")
    expected = network_of(folder, "classify")
    state = {name: torch.from_numpy(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    (folder / "model.safetensors").unlink()
    network = network_of(folder, "classify")
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(network.tensors[name], tensor)


def test_pickle_that_runs_code_is_refused_and_runs_nothing(copy_of: Copy, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "pwned"),))

    folder = copy_of("bert-single-label")
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weight": Malicious()}, protocol=2))
    with pytest.raises(
        ExportError, match=r"not a state dict that can be read safely: it names 'posix\.mkdir', which no"
    ):
        open_weights(folder)
    assert not (tmp_path / "pwned").exists()


def test_quantized_weights_are_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    edit_tensors(
        folder, lambda tensors: tensors.update({"classifier.weight": tensors["classifier.weight"].astype(np.int8)})
    )
    with pytest.raises(
        ExportError, match=r"classifier\.weight in .* holds numbers of the type I8; F64, F32, F16, BF16 can be"
    ):
        network_of(folder, "classify")


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
