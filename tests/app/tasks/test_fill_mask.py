"""Texts with masks to sequences, and the best tokens to answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.bundle.sequences import MaskScores, TokenSequence
from app.errors import ValidationFailed
from app.tasks.base import Model, Prepared
from app.tasks.catalog import load_model
from app.tasks.fill_mask import LEAST, MAX_WRITTEN, FillMaskHandler, FillMaskRequest
from tests.conftest import BundleOf


@pytest.fixture(scope="module")
def model(shared_models: Path) -> Model:
    return load_model(load_bundle(shared_models / "masked"))


def prepare(model: Model, inputs: Any, **parameters: Any) -> Prepared:
    return FillMaskHandler().prepare(
        model, FillMaskRequest.model_validate({"inputs": inputs, "parameters": parameters})
    )


def answer(model: Model, text: str, tokens: list[list[str]]) -> Any:
    """The answer for these tokens, the best first, for each mask."""
    prepared = prepare(model, text)
    ids = np.array([[model.tokenizer.token_id(token) for token in row] for row in tokens])
    scores = np.linspace(0.9, 0.1, ids.size, dtype=np.float32).reshape(ids.shape)
    request = FillMaskRequest.model_validate({"inputs": text})
    [masks] = FillMaskHandler().answer(model, request, prepared, [MaskScores(ids, scores)])
    return masks


def test_masks_are_found(model: Model) -> None:
    one, two = prepare(model, ["good [MASK].", "[MASK] is [MASK]"]).sequences
    assert (one.masks.tolist(), two.masks.tolist()) == ([2], [1, 3])
    assert all(model.manifest.special_tokens.mask.id == one.input_ids[i] for i in one.masks)  # type: ignore[union-attr]


@pytest.mark.parametrize(("parameters", "expected"), [({}, 5), ({"top_k": 1}, 1), ({"top_k": 1000}, 400)])
def test_top_k_is_limited_by_the_vocabulary(model: Model, parameters: dict[str, int], expected: int) -> None:
    assert prepare(model, "[MASK]", **parameters).sequences[0].top_k == expected


def id_of(model: Model, token: str) -> int:
    found = model.tokenizer.token_id(token)
    assert found is not None
    return found


def test_targets_are_tokens_each_once(model: Model) -> None:
    [sequence] = prepare(model, "[MASK]", targets=["late", "good", "good", "GOOD"]).sequences
    assert sequence.targets is not None
    assert sorted(sequence.targets) == sorted({id_of(model, "good"), id_of(model, "late")})
    assert sequence.top_k == 2


@pytest.mark.parametrize(
    ("inputs", "parameters", "says"),
    [
        ("good", {}, r"inputs\[0\] has no mask token; write \[MASK\]"),
        (["[MASK]", "<mask>"], {}, r"inputs\[1\] has no mask token"),
        ("[MASK] " + "good " * 40, {}, r"inputs\[0\] has more than 40 tokens"),
        ("[MASK]", {"targets": ["good", "nowhere"]}, r"targets\[1\] is not a single token"),
        ("[MASK]", {"targets": ["good late"]}, r"targets\[0\] is not a single token"),
    ],
)
def test_unanswerable_requests_are_refused(model: Model, inputs: Any, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationFailed, match=says):
        prepare(model, inputs, **parameters)


def test_too_many_masks_for_the_vocabulary_are_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.tasks.fill_mask.MAX_SCORES", 3 * model.manifest.architecture.vocab_size)
    prepare(model, ["[MASK] [MASK] [MASK]"] * 2)
    with pytest.raises(ValidationFailed, match=r"inputs\[1\] has 4 masks; at most 3 .*vocabulary"):
        prepare(model, ["[MASK]", "[MASK] " * 4])


def test_too_long_an_answer_is_refused(model: Model) -> None:
    inputs = ["[MASK] [MASK]"] * (MAX_WRITTEN // (LEAST * 200))
    assert len(prepare(model, inputs, top_k=100).sequences) == len(inputs)
    with pytest.raises(ValidationFailed, match=rf"tokens \(masks x top_k x .*at most {MAX_WRITTEN} .* Lower .*top_k"):
        prepare(model, [*inputs, "[MASK] [MASK]"], top_k=100)


def test_one_mask_is_filled_in(model: Model) -> None:
    [candidates] = answer(model, "It is [MASK].", [["good", "late"]])
    assert [one["token_str"] for one in candidates] == ["good", "late"]
    assert [one["sequence"] for one in candidates] == ["it is good.", "it is late."]
    assert candidates[0]["token"] == model.tokenizer.token_id("good")
    assert [one["score"] for one in candidates] == pytest.approx([0.9, 0.1])
    assert all(type(one["token"]) is int and type(one["score"]) is float for one in candidates)


def test_with_several_masks_the_others_stay_visible(model: Model) -> None:
    first, second = answer(model, "[MASK] is [MASK]", [["good"], ["late"]])
    assert first[0]["sequence"] == "[CLS] good is [MASK] [SEP]"
    assert second[0]["sequence"] == "[CLS] [MASK] is late [SEP]"


def test_answering_does_not_modify_the_request(model: Model) -> None:
    prepared = prepare(model, "It is [MASK].")
    [sequence] = prepared.sequences
    before = sequence.input_ids.tolist()
    scores = MaskScores(np.array([[5]]), np.array([[0.5]], np.float32))
    FillMaskHandler().answer(model, FillMaskRequest.model_validate({"inputs": "x"}), prepared, [scores])
    assert sequence.input_ids.tolist() == before


def test_the_weight_grows_with_what_is_written(model: Model) -> None:
    def one(masks: int, top_k: int) -> TokenSequence:
        return TokenSequence(
            np.arange(9, dtype=np.int32), np.zeros(9, np.int32), np.arange(masks, dtype=np.int32), top_k
        )

    request = FillMaskRequest.model_validate({"inputs": "x"})
    assert FillMaskHandler().weight(model, request, Prepared([one(2, 5), one(1, 7)], 0)) == 17 * LEAST // 4


def test_the_example_has_the_models_own_mask(bundle_of: BundleOf) -> None:
    roberta = load_model(load_bundle(bundle_of("roberta-fill-mask")))
    example = FillMaskHandler().example(roberta)
    assert "<mask>" in example["inputs"]
    assert FillMaskHandler().prepare(roberta, FillMaskRequest.model_validate(example)).sequences
