"""Paths that are no checkpoint: each is refused with what to give instead."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model_export.checkpoint.find import find_checkpoint
from model_export.checkpoint.weights import open_weights
from model_export.errors import ExportError

Copy = Callable[..., Path]


def refusal(path: Path) -> str:
    with pytest.raises(ExportError) as caught:
        open_weights(find_checkpoint(str(path)).folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.onnx", "is an ONNX graph. The export starts from the weights: give a folder"),
        ("model.gguf", "is a GGUF file, which cannot be exported."),
        ("model.tar.gz", "is an archive. Unpack it,"),
        ("notes", "is a file, not a checkpoint."),
    ],
)
def test_a_file_is_no_checkpoint(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).touch()
    assert expected in refusal(tmp_path / name)


def test_a_file_of_a_checkpoint_leads_to_its_folder(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    for name in ("config.json", "model.safetensors"):
        assert refusal(folder / name).endswith(f"is a file. Give the folder that it is in: {folder}.")


@pytest.mark.parametrize("has_config", [False, True])
def test_the_output_of_a_training_leads_to_its_checkpoints(copy_of: Copy, has_config: bool) -> None:
    folder = copy_of("bert-single-label")
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").touch()
    if not has_config:
        (folder / "config.json").unlink()
    for step in ("checkpoint-1000", "checkpoint-500", "checkpoint-best"):
        (folder / step).mkdir()
    assert f"export one of its checkpoints, {folder}/checkpoint-1000, {folder}/checkpoint-500. " in refusal(folder)


@pytest.mark.parametrize("inner", ["epoch_3", "snapshots/0123abc"])
def test_a_folder_around_a_checkpoint_leads_to_it(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner).mkdir(parents=True)
    (tmp_path / inner / "config.json").touch()
    assert refusal(tmp_path).endswith(f"Give the folder in it that has one: {tmp_path / inner}.")


def test_a_bundle_is_told_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    assert "is a bundle, which was exported already. Serve it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("tf_model.h5", "tf_model.h5 holds weights of TensorFlow or Flax. Load them"),
        ("model.fp16.safetensors", "It has model.fp16.safetensors. If these are the weights, load them"),
        ("best.pt", "It has best.pt. If these are the weights, load them"),
        ("model.onnx", "It has model.onnx, but the export starts from the weights."),
        ("optimizer.pt", "pytorch_model.bin, in one file or in shards. Save the model with save_pretrained()"),
    ],
)
def test_weights_under_other_names_are_told_with_what_to_do(copy_of: Copy, file: str, expected: str) -> None:
    folder = copy_of("bert-single-label")
    (folder / "model.safetensors").rename(folder / file)
    assert expected in refusal(folder)


def test_weights_without_their_config_are_incomplete(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    (folder / "config.json").unlink()
    assert refusal(folder).startswith(f"{folder} is not a checkpoint: it has no config.json. Download the rest")
