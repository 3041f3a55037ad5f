"""Tensors that would be left out: refused in the encoder, a warning in unknown heads, ignored in known heads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.checkpoint.find import find_checkpoint
from model_export.checkpoint.unused import find_unused
from model_export.checkpoint.weights import open_weights
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.model_export.support import CHECKPOINTS, NAMES, edit_tensors

Copy = Callable[..., Path]


def unused_in(folder: Path) -> list[str]:
    checkpoint = find_checkpoint(str(folder))
    return find_unused("it", checkpoint.config, open_weights(folder))


def adding(*names: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: np.zeros(32, np.float32) for name in names})


@pytest.mark.parametrize(
    ("name", "layers", "first"),
    [
        ("bert-single-label", "num_hidden_layers", "bert.encoder.layer.1.attention.output.LayerNorm.bias"),
        ("bert-embed", "num_hidden_layers", "encoder.layer.1.attention.output.LayerNorm.bias"),
        ("roberta-fill-mask", "num_hidden_layers", "roberta.encoder.layer.1.attention.output.LayerNorm.bias"),
        ("distilbert-two-labels", "n_layers", "distilbert.transformer.layer.1.attention.k_lin.bias"),
        ("distilbert-embed-cls", "n_layers", "transformer.layer.1.attention.k_lin.bias"),
        ("electra-single-label", "num_hidden_layers", "electra.encoder.layer.1.attention.output.LayerNorm.bias"),
    ],
)
def test_layers_that_the_config_does_not_count(
    copy_of: Copy, tmp_path: Path, name: str, layers: str, first: str
) -> None:
    folder = copy_of(name, **{layers: 1})
    with pytest.raises(ExportError) as caught:
        export(ExportOptions(str(folder), tmp_path / "out"), lambda _: None)
    assert f"has weights of 2 layers, config.json counts 1: {first}, " in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bert-single-label", "bert.encoder.layer.0.crossattention.self.query.weight"),
        ("bert-single-label", "bert.encoder.layer.0.attention.self.distance_embedding.weight"),
        ("bert-single-label", "bert.embeddings_project.weight"),
        ("bert-embed", "encoder.layer.0.adapter.weight"),
    ],
)
def test_part_of_the_encoder_that_the_family_does_not_have(copy_of: Copy, name: str, tensor: str) -> None:
    folder = copy_of(name)
    edit_tensors(folder, adding(tensor))
    with pytest.raises(ExportError, match=f"tensors in its encoder that bert does not have there: {tensor}"):
        unused_in(folder)


def test_tensor_of_an_unknown_head_is_a_warning(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-entities")
    edit_tensors(folder, adding("crf.transitions", "encoder.of_images"))
    warnings: list[str] = []
    options = ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"])
    export(options, lambda _: None, warnings.append)
    [warning] = warnings
    assert (
        "has tensors of no head that can be exported: crf.transitions, encoder.of_images. They are left out" in warning
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_unused_in_what_transformers_saves(name: str) -> None:
    assert unused_in(CHECKPOINTS / name) == []


def test_known_heads_poolers_and_buffers_are_not_reported(copy_of: Copy) -> None:
    bert, electra, bare = (copy_of(name) for name in ("bert-entities", "electra-fill-mask", "bert-embed"))
    heads = ("cls.predictions.bias", "cls.predictions.decoder.bias", "cls.seq_relationship.weight", "qa_outputs.bias")
    edit_tensors(bert, adding("bert.pooler.dense.weight", "bert.embeddings.position_ids", *heads))
    edit_tensors(electra, adding("discriminator_predictions.dense.weight", "electra.embeddings.position_ids"))
    edit_tensors(bare, adding("embeddings.position_ids", "embeddings.token_type_ids"))
    for folder in (bert, electra, bare):
        assert unused_in(folder) == []
