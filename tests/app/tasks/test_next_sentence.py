"""Whether a text continues another."""

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.tasks.base import Model, Prepared
from app.tasks.catalog import load_model
from app.tasks.next_sentence import NextSentenceHandler, NextSentenceRequest
from tests.conftest import BundleOf

PAIR = {"text": "good day", "text_pair": "late"}


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Model:
    return load_model(load_bundle(bundle_of("bert-next-sentence")))


@pytest.mark.parametrize(
    ("logits", "is_next", "score"), [([2, 0], True, 0.880797), ([0, 2], False, 0.119203), ([1, 1], True, 0.5)]
)
def test_the_first_logit_means_is_next(model: Model, logits: list[float], is_next: bool, score: float) -> None:
    request = NextSentenceRequest.model_validate({"inputs": PAIR})
    [answer] = NextSentenceHandler().answer(model, request, Prepared([], 0), [np.array(logits, np.float32)])
    assert answer == {"is_next": is_next, "score": pytest.approx(score, abs=1e-6)}


def test_pairs_become_sequences(model: Model) -> None:
    request = NextSentenceRequest.model_validate({"inputs": [PAIR, PAIR | {"text": "good " * 100}]})
    prepared = NextSentenceHandler().prepare(model, request)
    types = prepared.sequences[0].token_type_ids.tolist()
    assert types == sorted(types)
    assert set(types) == {0, 1}
    assert len(prepared.sequences[1]) == model.manifest.max_length
    assert prepared.truncated == NextSentenceHandler().weight(model, request, prepared) - 1 == 1


def test_a_long_pair_without_truncation_is_refused(model: Model) -> None:
    inputs = [PAIR, PAIR | {"text": "good " * 100}]
    request = NextSentenceRequest.model_validate({"inputs": inputs, "parameters": {"truncation": False}})
    with pytest.raises(ValidationFailed, match=r"inputs\[1\] has more than"):
        NextSentenceHandler().prepare(model, request)
