"""Texts by how well they match a query."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.http.problems import explain
from app.tasks import TASKS
from app.tasks.base import SHORT_BYTES, Model, Prepared
from app.tasks.catalog import Catalog, load_model
from app.tasks.inputs import MAX_INPUTS
from app.tasks.rerank import CHARACTERS_A_WEIGHT, RerankHandler, RerankRequest
from tests.conftest import BundleOf

HANDLER = RerankHandler()
ONE = {"query": "good", "texts": ["late", "good day", ""]}


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Model:
    """It answers with the logit."""
    return load_model(load_bundle(bundle_of("roberta-rerank")))


@pytest.fixture(scope="module")
def classifier(bundle_of: BundleOf) -> Model:
    """A classifier with one label, which is a reranker for who wants one."""
    return load_model(load_bundle(bundle_of("distilbert-one-label")))


def request(inputs: Any, **parameters: Any) -> RerankRequest:
    return RerankRequest.model_validate_json(json.dumps({"inputs": inputs, "parameters": parameters}))


def ranked(model: Model, inputs: Any, logits: list[float], **parameters: Any) -> Any:
    results = [np.array([logit], np.float32) for logit in logits]
    return HANDLER.answer(model, request(inputs, **parameters), Prepared([], 0), results)


def test_texts_are_sorted_by_score(model: Model) -> None:
    [best] = ranked(model, ONE, [0.5, 2.0, -1.0])
    assert best == [{"index": 1, "score": 2.0}, {"index": 0, "score": 0.5}, {"index": 2, "score": -1.0}]


def test_texts_of_equal_score_keep_their_order(model: Model) -> None:
    [best] = ranked(model, ONE, [1.0, 2.0, 1.0])
    assert [one["index"] for one in best] == [1, 0, 2]


def test_every_query_has_its_own_ranking(model: Model) -> None:
    inputs = [ONE, {"query": "x", "texts": ["a"]}, ONE]
    rankings = ranked(model, inputs, [1, 2, 3, 9, 3, 2, 1], top_n=2)
    assert [[one["index"] for one in ranking] for ranking in rankings] == [[2, 1], [0], [0, 1]]


def test_texts_are_returned_on_request(model: Model) -> None:
    [best] = ranked(model, ONE, [0.5, 2.0, -1.0], return_documents=True, top_n=2)
    assert [one["text"] for one in best] == ["good day", "late"]


def test_the_function_is_the_requests_else_the_checkpoints_else_the_sigmoid(model: Model, classifier: Model) -> None:
    def score(of: Model, **parameters: Any) -> float:
        [[only]] = ranked(of, {"query": "a", "texts": ["b"]}, [2.0], **parameters)
        return float(only["score"])

    sigmoid = 1 / (1 + math.exp(-2))
    assert score(model) == score(classifier, function_to_apply="none") == 2
    assert score(classifier) == score(model, function_to_apply="sigmoid") == pytest.approx(sigmoid)


def test_a_query_and_each_text_are_a_sequence(model: Model) -> None:
    asked = request([ONE, {"query": "good " * 100, "texts": ["good " * 100]}])
    prepared = HANDLER.prepare(model, asked)
    assert HANDLER.count(asked) == len(prepared.sequences) == 4
    pairs = [("good", "late"), ("good", "good day"), ("good", ""), ("good " * 100, "good " * 100)]
    for sequence, encoded in zip(prepared.sequences, model.tokenizer.encode(pairs), strict=True):
        assert sequence.input_ids.tolist() == encoded.input_ids.tolist()
    assert prepared.truncated == 1


def test_a_pair_that_is_too_long_is_named(model: Model) -> None:
    asked = request([ONE, {"query": "a", "texts": ["b", "good " * 100]}], truncation=False)
    with pytest.raises(ValidationFailed, match=r"^inputs\[1\]\.texts\[1\] with its query has more than 40 tokens"):
        HANDLER.prepare(model, asked)


def test_many_pairs_are_prepared_in_a_thread(model: Model) -> None:
    few, many = (request({"query": "a", "texts": ["b"] * count}) for count in (3, 512))
    assert HANDLER.bytes_to_prepare(model, few, 40) < SHORT_BYTES < HANDLER.bytes_to_prepare(model, many, 2_100)


def test_long_texts_that_are_returned_take_time_to_write(model: Model) -> None:
    inputs = {"query": "a", "texts": ["b" * CHARACTERS_A_WEIGHT * 5]}
    weights = []
    for returned in (False, True):
        asked = request(inputs, return_documents=returned)
        weights.append(HANDLER.weight(model, asked, HANDLER.prepare(model, asked)))
    assert weights == [1, 6]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": "a"}, 'inputs: should be {"query": ..., "texts": [...]} or a list of these'),
        ({"inputs": {"query": "a"}}, "inputs.texts: is missing"),
        ({"inputs": {"query": "", "texts": ["b"]}}, "inputs.query: is an empty string; send some text"),
        ({"inputs": {"query": "a", "texts": []}}, "inputs.texts: list should have at least 1 item"),
        ({"inputs": [ONE, {"query": "a", "texts": [1]}]}, "inputs[1].texts[0]: input should be a valid string"),
        ({"inputs": {"query": "a", "texts": ["b", "\0"]}}, "inputs.texts[1]: contains a NUL character; remove it"),
        (
            {"inputs": {"query": "a", "texts": ["b"] * (MAX_INPUTS + 1)}},
            f"inputs.texts: list should have at most {MAX_INPUTS} items",
        ),
        ({"inputs": ONE, "parameters": {"top_n": 0}}, "parameters.top_n: input should be greater than or equal to 1"),
        ({"inputs": ONE, "parameters": {"function_to_apply": "softmax"}}, "parameters.function_to_apply: input should"),
    ],
)
def test_invalid_requests_are_refused(body: Any, says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RerankRequest.model_validate_json(json.dumps(body))
    assert explain(refused.value).message.startswith(says)


def test_models_with_one_label_rank_and_rerankers_classify(
    model: Model, classifier: Model, shared_models: Path
) -> None:
    sentiment = load_model(load_bundle(shared_models / "sentiment"))
    catalog = Catalog([model, classifier, sentiment])
    assert [one.name for one in catalog.all_for(HANDLER)] == [model.name, classifier.name]
    assert catalog.for_task(HANDLER, None) is model  # it was exported for that
    assert len(catalog.all_for(TASKS["classify"])) == 3
