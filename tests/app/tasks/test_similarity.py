"""Similarity of one text to others."""

import json
from typing import Any

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.tasks import TASKS
from app.tasks.base import Model, Prepared
from app.tasks.catalog import load_model
from app.tasks.similarity import SimilarityHandler, SimilarityRequest
from tests.conftest import BundleOf

HANDLER = SimilarityHandler()


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Model:
    return load_model(load_bundle(bundle_of("bert-embed-dense")))


def request_of(*inputs: tuple[str, list[str]], **parameters: Any) -> SimilarityRequest:
    sent = [{"source_sentence": source, "sentences": sentences} for source, sentences in inputs]
    body = {"inputs": sent if len(sent) > 1 else sent[0], "parameters": parameters}
    return SimilarityRequest.model_validate_json(json.dumps(body))


def test_every_model_for_embeddings_serves_it(model: Model, bundle_of: BundleOf) -> None:
    assert TASKS["similarity"].serves(model.manifest)
    assert not TASKS["similarity"].serves(load_bundle(bundle_of("bert-single-label")).manifest)


def test_every_text_counts_as_an_input() -> None:
    assert HANDLER.count(request_of(("a", ["b"]))) == 2
    assert HANDLER.count(request_of(("a", ["b", "c"]), ("d", ["e"]))) == 5


def test_texts_are_embedded_in_order_after_the_prompt(model: Model) -> None:
    prepared = HANDLER.prepare(model, request_of(("good", ["day", "night"]), ("world", ["tea"]), prompt_name="query"))
    expected = model.tokenizer.encode([f"What is it? {word}" for word in ("good", "day", "night", "world", "tea")])
    assert [one.input_ids.tolist() for one in prepared.sequences] == [one.input_ids.tolist() for one in expected]


def test_a_text_that_is_too_long_is_named_by_its_place(model: Model) -> None:
    long = "good " * 100
    for inputs, place in (
        ([("a", ["b", long])], r"inputs\[0\]\.sentences\[1\]"),
        ([("a", ["b"]), (long, ["b"])], r"inputs\[1\]\.source_sentence"),
    ):
        with pytest.raises(ValidationFailed, match=f"^{place} has more than 40 tokens"):
            HANDLER.prepare(model, request_of(*inputs, truncation=False))


def test_predictions_are_cosines_by_input(model: Model) -> None:
    rows = [[1, 0], [1, 1], [-2, 0], [0, 0], [0, 3], [0, 5]]
    request = request_of(("a", ["b", "c", "d"]), ("e", ["f"]))
    got = HANDLER.answer(model, request, Prepared([], 0), [np.array(row, np.float32) for row in rows])
    assert got == [pytest.approx([0.5**0.5, -1, 0]), pytest.approx([1])]


def test_a_cosine_does_not_depend_on_the_other_sentences(model: Model) -> None:
    rows = list(np.random.default_rng(1).normal(size=(40, 384)).astype(np.float32))
    [together] = HANDLER.answer(model, request_of(("a", ["b"] * 39)), Prepared([], 0), rows)
    for row, cosine in zip(rows[1:], together, strict=True):
        assert HANDLER.answer(model, request_of(("a", ["b"])), Prepared([], 0), [rows[0], row]) == [[cosine]]


def test_shortened_embeddings_are_compared_as_they_are_returned(bundle_of: BundleOf) -> None:
    model = load_model(load_bundle(bundle_of("roberta-embed-dense")))
    one, other = np.ones((2, 16), np.float32)
    other[12:] = -9
    assert HANDLER.answer(model, request_of(("a", ["b"])), Prepared([], 0), [one, other]) == [[pytest.approx(1)]]
