"""Embeddings as they are written."""

from base64 import b64decode
from typing import Any

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.tasks.base import Model, Prepared
from app.tasks.catalog import load_model
from app.tasks.embed import EmbedHandler, EmbedRequest
from tests.conftest import BundleOf

ROWS = [np.array([3, 4], np.float32), np.array([0, 0], np.float32), np.array([1e-3, 0], np.float32)]


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Model:
    return load_model(load_bundle(bundle_of("distilbert-embed-cls")))


def answer(model: Model, **parameters: Any) -> list[Any]:
    request = EmbedRequest.model_validate({"inputs": ["a"] * len(ROWS), "parameters": parameters})
    return EmbedHandler().answer(model, request, Prepared([], 0), ROWS)


def test_an_embedding_is_a_list_of_numbers(model: Model) -> None:
    assert answer(model, normalize=False) == [row.tolist() for row in ROWS]


def test_a_normalized_embedding_has_length_one_or_zero(model: Model) -> None:
    embeddings = answer(model, normalize=True)
    assert embeddings[0] == pytest.approx([0.6, 0.8])
    assert embeddings[1] == [0, 0]
    assert embeddings[2] == pytest.approx([1, 0])


@pytest.mark.parametrize(("says", "normalizes"), [(None, False), (False, False), (True, True)])
def test_the_manifest_decides_whether_to_normalize(model: Model, says: bool | None, normalizes: bool) -> None:
    changed = Model(model.name, model.manifest.model_copy(update={"normalizes": says}), model.tokenizer)
    assert answer(changed) == answer(changed, normalize=normalizes)
    assert answer(changed, normalize=not normalizes) != answer(changed)


def test_a_default_number_of_dimensions_cuts_what_was_normalized(model: Model) -> None:
    """As `encode` of sentence-transformers does with the truncate_dim of a folder with a Normalize module."""
    update = {"normalizes": True, "default_dimensions": 1}
    cut = Model(model.name, model.manifest.model_copy(update=update), model.tokenizer)
    assert answer(cut)[0] == pytest.approx([0.6])
    assert answer(cut, dimensions=1)[0] == answer(cut, normalize=True)[0] == pytest.approx([1])
    assert answer(cut, normalize=False)[0] == [3]


@pytest.mark.parametrize("normalize", [True, False])
def test_base64_holds_the_same_numbers(model: Model, normalize: bool) -> None:
    texts = answer(model, normalize=normalize, encoding_format="base64")
    decoded = [np.frombuffer(b64decode(text), "<f4").tolist() for text in texts]
    assert decoded == answer(model, normalize=normalize)


def test_inputs_become_sequences(model: Model) -> None:
    request = EmbedRequest.model_validate({"inputs": ["good", "good " * 100]})
    prepared = EmbedHandler().prepare(model, request)
    assert [len(one) for one in prepared.sequences] == [3, model.manifest.max_length]
    assert prepared.truncated == 1


@pytest.mark.parametrize("strips", [True, False, None])
def test_white_space_around_a_text_is_removed_where_the_manifest_says_so(
    bundle_of: BundleOf, strips: bool | None
) -> None:
    """For a byte-level tokenizer it is tokens of its own. That the vectors are right is the oracle's to tell."""
    model = load_model(load_bundle(bundle_of("roberta-embed")))
    model = Model(model.name, model.manifest.model_copy(update={"strips_whitespace": strips}), model.tokenizer)
    request = EmbedRequest.model_validate({"inputs": ["good day", " good day\n", "\u3000good day\x85", "\t "]})
    bare, *surrounded, blank = (one.input_ids.tolist() for one in EmbedHandler().prepare(model, request).sequences)
    assert [one == bare for one in surrounded] == [bool(strips)] * 2
    assert (len(blank) == 2) == bool(strips)


def test_the_weight_grows_with_the_numbers(model: Model) -> None:
    def weight(inputs: int, **parameters: Any) -> int:
        request = EmbedRequest.model_validate({"inputs": ["good"] * inputs, "parameters": parameters})
        return EmbedHandler().weight(model, request, EmbedHandler().prepare(model, request))

    assert weight(512) == 512 * model.manifest.architecture.hidden_size // 64
    assert weight(512, dimensions=8) == 512 * 8 // 64


# --- dimensions


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_dimensions_are_the_first_numbers_and_normalized_after_that(model: Model, encoding_format: str) -> None:
    def first_two(normalize: bool) -> Any:
        request = EmbedRequest.model_validate(
            {
                "inputs": "a",
                "parameters": {"dimensions": 2, "normalize": normalize, "encoding_format": encoding_format},
            }
        )
        [got] = EmbedHandler().answer(model, request, Prepared([], 0), [np.array([3, 4, 12], np.float32)])
        return np.frombuffer(b64decode(got), "<f4").tolist() if encoding_format == "base64" else got

    assert first_two(normalize=False) == [3, 4]
    assert first_two(normalize=True) == pytest.approx([0.6, 0.8])


def test_more_dimensions_than_the_model_has_are_refused(model: Model) -> None:
    size = model.manifest.dimensions
    EmbedHandler().prepare(model, EmbedRequest.model_validate({"inputs": "a", "parameters": {"dimensions": size}}))
    with pytest.raises(ValidationFailed, match=rf"parameters\.dimensions: this model's embeddings have {size} numbers"):
        EmbedHandler().prepare(
            model, EmbedRequest.model_validate({"inputs": "a", "parameters": {"dimensions": size + 1}})
        )


def test_the_manifest_says_how_many_numbers_there_are(bundle_of: BundleOf) -> None:
    """The oracle's answers tell that they are the right ones."""
    model = load_model(load_bundle(bundle_of("roberta-embed-dense")))
    manifest = model.manifest
    assert (manifest.dimensions, manifest.default_dimensions, manifest.architecture.hidden_size) == (16, 12, 32)
    for parameters, count in (({}, 12), ({"dimensions": 16}, 16), ({"dimensions": 3}, 3)):
        request = EmbedRequest.model_validate({"inputs": "a", "parameters": parameters})
        [got] = EmbedHandler().answer(model, request, Prepared([], 0), [np.ones(16, np.float32)])
        assert len(got) == count
