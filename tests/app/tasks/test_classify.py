"""Logits to labels and scores."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.files import find_bundles
from app.tasks.base import Model, Prepared
from app.tasks.catalog import load_model
from app.tasks.classify import ClassifyHandler, ClassifyRequest, default_function
from app.tasks.scores import FUNCTIONS, sigmoid, softmax

logits = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def models(shared_models: Path) -> dict[str, Model]:
    return {bundle.name: load_model(bundle) for bundle in find_bundles(shared_models)}


def request(**keys: Any) -> ClassifyRequest:
    return ClassifyRequest.model_validate(keys)


def answer(model: Model, rows: list[list[float]], **parameters: Any) -> list[list[tuple[str, float]]]:
    asked = request(inputs=["a"] * len(rows), parameters=parameters)
    predictions = ClassifyHandler().answer(model, asked, Prepared([], 0), [np.array(row, np.float32) for row in rows])
    return [[(one["label"], one["score"]) for one in prediction] for prediction in predictions]


@given(logits)
def test_softmax_is_a_distribution(values: list[float]) -> None:
    scores = softmax(values)
    assert math.isclose(sum(scores), 1)
    assert all(0 <= score <= 1 for score in scores)
    assert [scores[i] for i in np.argsort(values, kind="stable")] == sorted(scores)
    reference = np.exp(np.array(values) - max(values))
    np.testing.assert_allclose(scores, reference / reference.sum(), rtol=1e-12, atol=1e-300)


@given(st.floats(-50, 50))
def test_sigmoid_matches_its_definition(value: float) -> None:
    [score] = sigmoid([value])
    assert math.isclose(score, 1 / (1 + math.exp(-value)), rel_tol=1e-12)
    [opposite] = sigmoid([-value])
    assert math.isclose(score + opposite, 1)


def test_extreme_logits_do_not_overflow() -> None:
    assert sigmoid([-1e5, 1e5]) == [0, 1]
    assert softmax([-1e5, 1e5]) == [0, 1]
    assert softmax([1e5, 1e5]) == [0.5, 0.5]


def test_the_default_function_follows_the_problem_type(models: dict[str, Model]) -> None:
    manifest = models["sentiment"].manifest
    for problem_type, labels, expected in (
        ("single_label_classification", ("a", "b"), "softmax"),
        ("single_label_classification", ("a",), "sigmoid"),
        ("multi_label_classification", ("a", "b"), "sigmoid"),
        ("regression", ("a",), "none"),
        ("regression", ("a", "b"), "none"),
        (None, ("a", "b"), "softmax"),
    ):
        changed = manifest.model_copy(update={"problem_type": problem_type, "labels": labels})
        assert default_function(changed) == expected


def test_labels_are_sorted_by_score(models: dict[str, Model]) -> None:
    [[first, second, third]] = answer(models["sentiment"], [[0.0, 2.0, 1.0]])
    assert (first[0], second[0], third[0]) == ("neutral", "positive", "négatif")
    assert sum(score for _, score in (first, second, third)) == pytest.approx(1)


def test_labels_of_equal_score_keep_the_models_order(models: dict[str, Model]) -> None:
    [labels] = answer(models["sentiment"], [[1.0, 1.0, 1.0]])
    assert [label for label, _ in labels] == ["négatif", "neutral", "positive"]


def test_top_k_limits_the_labels(models: dict[str, Model]) -> None:
    rows = [[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]
    every = answer(models["sentiment"], rows)
    for top_k in (1, 2, 3, 1000):
        assert answer(models["sentiment"], rows, top_k=top_k) == [labels[:top_k] for labels in every]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_requested_function_is_applied(models: dict[str, Model], function: Any) -> None:
    row = [0.5, -2.0, 1.0]
    [labels] = answer(models["sentiment"], [row], function_to_apply=function)
    assert sorted(score for _, score in labels) == sorted(FUNCTIONS[function](row))


def test_inputs_become_sequences(models: dict[str, Model]) -> None:
    asked = request(inputs=["good", {"text": "good", "text_pair": "late"}, "good " * 100])
    prepared = ClassifyHandler().prepare(models["sentiment"], asked)
    assert [len(sequence) for sequence in prepared.sequences] == [3, 5, 40]
    assert prepared.sequences[1].token_type_ids.tolist() == [0, 0, 0, 1, 1]
    assert (prepared.tokens, prepared.truncated) == (48, 1)
    assert all(not len(sequence.masks) and sequence.targets is None for sequence in prepared.sequences)
