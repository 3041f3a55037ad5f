"""The NumPy reference of the export answers as transformers does, so that what agrees with the one agrees with the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from app.bundle.sequences import FloatArray
from model_export.check.reference import reference_answers, softmax
from model_export.check.sequences import checked_sequence
from model_export.checkpoint.find import find_checkpoint
from model_export.checkpoint.sentence_transformers import read_embedding_settings
from model_export.checkpoint.tensors import read_network
from model_export.checkpoint.tokenizer import read_tokenizer
from model_export.checkpoint.weights import open_weights
from model_export.tasks import TASKS
from tests.model_export.support import CUT, texts_of
from tests.oracle.answers import TOLERANCE, Oracle, each_oracle

MANY_TOKENS = 64
"""Longer texts take seconds in NumPy; the small checkpoints have texts of their greatest length, which is less."""


@each_oracle()
def test_reference_and_tokenizer_agree_with_transformers(oracle: Oracle) -> None:
    checkpoint = find_checkpoint(str(oracle.checkpoint))
    tokenizer = read_tokenizer(checkpoint.folder)
    settings = read_embedding_settings(checkpoint.folder, "auto") if oracle.task == "embed" else None
    network = read_network(
        checkpoint.name,
        checkpoint.config,
        TASKS[oracle.exported_as],
        open_weights(checkpoint.folder),
        tokenizer_tells_types=tokenizer.tells_types,
        embedding=settings,
    )
    mask = network.task.mask(tokenizer.special_tokens)
    for case in oracle.sequences:
        if len(case["input_ids"]) > MANY_TOKENS:
            continue
        parameters = case["answers"][0]["parameters"]
        tokenizer.fast.enable_truncation(
            oracle.content["max_length"],
            direction=parameters.get("truncation_direction", "right"),
            strategy=CUT.get(oracle.task, "longest_first"),
        )
        given = texts_of(case["input"])
        if settings:
            text = settings.prompts.get(settings.default_prompt_name or "", "") + given[0]
            given = (text.strip() if settings.strips_whitespace else text, None)
        encoding = tokenizer.fast.encode(*given)
        assert encoding.ids == case["input_ids"], case["input"]
        [answer] = reference_answers(network, [checked_sequence(encoding.ids, encoding.type_ids, mask)])
        if oracle.task == "fill-mask":
            assert_scores(answer, case)
        else:
            expected = case["embedding" if oracle.task == "embed" else "logits"]
            np.testing.assert_allclose(answer, expected, rtol=TOLERANCE, atol=TOLERANCE)


def assert_scores(scores: FloatArray, case: Mapping[str, Any]) -> None:
    if "logits" in case:
        expected = softmax(np.array(case["logits"]))
        np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
        return
    for row, best in zip(scores, case["answers"][0]["prediction"], strict=True):
        assert np.argsort(-row)[: len(best)].tolist() == [entry["token"] for entry in best]
        assert row[[entry["token"] for entry in best]] == pytest.approx(
            [entry["score"] for entry in best], abs=TOLERANCE
        )
