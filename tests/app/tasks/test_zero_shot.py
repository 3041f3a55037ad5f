"""Labels of the request, by a model that tells whether a text entails another."""

import json
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.http.problems import explain
from app.tasks.base import SHORT_BYTES, Model, Prepared
from app.tasks.catalog import load_model
from app.tasks.inputs import MAX_INPUTS
from app.tasks.zero_shot import MAX_TEMPLATE, ZeroShotHandler, ZeroShotRequest
from tests.conftest import BundleOf

HANDLER = ZeroShotHandler()
LABELS = ["travel", "food", "sport"]


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Model:
    """Its labels are contradiction, entailment and neutral."""
    return load_model(load_bundle(bundle_of("bert-nli")))


def labelled(model: Model, *labels: str, task: str = "classify") -> Model:
    return Model(model.name, model.manifest.model_copy(update={"labels": labels, "task": task}), model.tokenizer)


def request(inputs: Any = "good", **parameters: Any) -> ZeroShotRequest:
    parameters = {"candidate_labels": LABELS} | parameters
    return ZeroShotRequest.model_validate_json(json.dumps({"inputs": inputs, "parameters": parameters}))


def scored(model: Model, rows: list[list[float]], inputs: Any = "good", **parameters: Any) -> Any:
    results = [np.array(row, np.float32) for row in rows]
    predictions = HANDLER.answer(model, request(inputs, **parameters), Prepared([], 0), results)
    return [[(one["label"], one["score"]) for one in prediction] for prediction in predictions]


def shares(*values: float) -> list[float]:
    return [math.exp(value) / sum(map(math.exp, values)) for value in values]


def test_the_scores_of_a_text_add_up_to_one(model: Model) -> None:
    [best] = scored(model, [[9, 1, 0], [0, 3, 9], [5, 2, 5]])
    assert [label for label, _ in best] == ["food", "sport", "travel"]
    assert [score for _, score in best] == pytest.approx(shares(3, 2, 1))


def test_the_number_of_the_entailment_goes_before_names_of_labels(model: Model) -> None:
    named = labelled(model, "LABEL_0", "LABEL_1", "LABEL_2")
    assert not HANDLER.serves(named.manifest)
    manifest = named.manifest.model_copy(update={"entailment": 1})
    assert HANDLER.serves(manifest)
    rows = [[9.0, 1.0, 0.0], [0.0, 3.0, 9.0], [5.0, 2.0, 5.0]]
    assert scored(Model(named.name, manifest, named.tokenizer), rows) == scored(model, rows)


@pytest.mark.parametrize("parameters", [{"multi_label": True}, {"candidate_labels": ["travel"]}])
def test_several_right_labels_and_a_single_one_are_held_against_their_contradiction(
    model: Model, parameters: dict[str, Any]
) -> None:
    rows = [[1.0, 2.0, 9.0], [3.0, 2.0, 9.0], [2.0, 2.0, 9.0]][: len(parameters.get("candidate_labels", LABELS))]
    [best] = scored(model, rows, **parameters)
    expected = sorted([shares(row[0], row[1])[1] for row in rows], reverse=True)
    assert [score for _, score in best] == pytest.approx(expected)
    assert best[0][0] == "travel"


def test_the_contradiction_is_the_first_label_or_the_last_if_the_first_is_the_entailment(model: Model) -> None:
    turned = labelled(model, "ENTAILMENT", "neutral", "contradiction")
    [[(_, score)]] = scored(turned, [[2.0, 9.0, 1.0]], candidate_labels=["travel"])
    assert score == pytest.approx(shares(2, 1)[0])
    [[(_, score)]] = scored(labelled(model, "not_entailment", "entailment"), [[1.0, 2.0]], candidate_labels=["a"])
    assert score == pytest.approx(shares(1, 2)[1])


def test_labels_of_equal_score_keep_the_requests_order(model: Model) -> None:
    [best] = scored(model, [[0, 1, 0]] * 3)
    assert [label for label, _ in best] == LABELS


def test_every_text_has_its_own_scores(model: Model) -> None:
    rows = [[0, 3, 0], [0, 2, 0], [0, 1, 0], [0, 1, 0], [0, 2, 0], [0, 3, 0]]
    first, second = scored(model, [[float(one) for one in row] for row in rows], inputs=["good", "late"])
    assert [label for label, _ in first] == LABELS
    assert [label for label, _ in second] == LABELS[::-1]


def test_a_text_and_each_hypothesis_are_a_sequence(model: Model) -> None:
    asked = request(["good", "late"], hypothesis_template="Is it {}?", candidate_labels=["{}", "a"])
    prepared = HANDLER.prepare(model, asked)
    assert HANDLER.count(asked) == len(prepared.sequences) == 4
    pairs = [(text, hypothesis) for text in ("good", "late") for hypothesis in ("Is it {}?", "Is it a?")]
    for sequence, encoded in zip(prepared.sequences, model.tokenizer.encode(pairs), strict=True):
        assert sequence.input_ids.tolist() == encoded.input_ids.tolist()


def test_many_hypotheses_are_prepared_in_a_thread(model: Model) -> None:
    few = request(["a"] * 20)
    for many in (
        request(["a"] * 20, candidate_labels=["b"] * 20),
        request(candidate_labels=["b"] * 100, hypothesis_template="{}" + "good " * 100),
    ):
        assert HANDLER.bytes_to_prepare(model, few, 200) < SHORT_BYTES < HANDLER.bytes_to_prepare(model, many, 700)


@pytest.mark.parametrize("direction", ["right", "left"])
def test_only_the_text_is_cut(model: Model, direction: str) -> None:
    asked = request("good " * 50 + "late", candidate_labels=["very good day"], truncation_direction=direction)
    [sequence] = HANDLER.prepare(model, asked).sequences
    assert len(sequence) == 40
    [whole] = model.tokenizer.encode([("a", "This example is very good day.")])
    hypothesis = whole.input_ids[whole.token_type_ids == 1].tolist()
    assert sequence.input_ids[sequence.token_type_ids == 1].tolist() == hypothesis


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"truncation": False}, r"^inputs\[1\] with parameters\.candidate_labels\[0\] has more than 40 tokens"),
        (
            {"candidate_labels": ["a", "good " * 40]},
            r"^inputs\[0\] with parameters\.candidate_labels\[1\] has more than 40 .* Shorten the second\.",
        ),
    ],
)
def test_what_cannot_be_cut_is_named(model: Model, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationFailed, match=says):
        HANDLER.prepare(model, request(["good", "late " * 50], **parameters))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (None, "parameters: is missing"),
        ({}, "parameters.candidate_labels: is missing"),
        ({"candidate_labels": []}, "parameters.candidate_labels: list should have at least 1 item"),
        ({"candidate_labels": ["a", ""]}, "parameters.candidate_labels[1]: is an empty string"),
        ({"candidate_labels": "a, b"}, "parameters.candidate_labels: input should be a valid"),
        (
            {"candidate_labels": ["a"] * (MAX_INPUTS + 1)},
            f"parameters.candidate_labels: list should have at most {MAX_INPUTS} items",
        ),
        *(
            (
                {"candidate_labels": ["a"], "hypothesis_template": template},
                "parameters.hypothesis_template: should contain {} once, where the label goes, and no other braces",
            )
            for template in ("It is good.", "{} {}", "{0}", "{:>9}", "{{}}", "{} }", "{ }")
        ),
        (
            {"candidate_labels": ["a"], "hypothesis_template": "{}" + "a" * MAX_TEMPLATE},
            f"parameters.hypothesis_template: string should have at most {MAX_TEMPLATE} characters",
        ),
    ],
)
def test_invalid_parameters_are_refused(parameters: Any, says: str) -> None:
    body = {"inputs": "a"} if parameters is None else {"inputs": "a", "parameters": parameters}
    with pytest.raises(ValidationError) as refused:
        ZeroShotRequest.model_validate_json(json.dumps(body))
    assert explain(refused.value).message.startswith(says)


@pytest.mark.parametrize(
    ("labels", "task", "serves"),
    [
        (("contradiction", "neutral", "entailment"), "classify", True),
        (("Entailed", "not_entailment"), "classify", True),
        (("negative", "positive"), "classify", False),
        (("entailment",), "classify", False),
        (("entailment", "entails"), "classify", False),
        (("entailment", "contradiction"), "entities", False),
    ],
)
def test_classifiers_with_one_label_of_entailment_serve(
    model: Model, labels: tuple[str, ...], task: str, serves: bool
) -> None:
    assert HANDLER.serves(labelled(model, *labels, task=task).manifest) is serves
