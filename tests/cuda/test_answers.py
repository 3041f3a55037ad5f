"""On a GPU the service answers as the transformers pipelines do, in company of everything else, through two processes."""

from pathlib import Path
from typing import Any, Final

import pytest

from app.bundle.manifest import Precision
from tests.cuda.conftest import GpuBundleOf
from tests.oracle.answers import Oracle, Question, each_oracle, oracles
from tests.oracle.client import Replies, ask_everything, assert_as_stored
from tests.support import serving

pytestmark = pytest.mark.cuda

SMALL: Final = [oracle for oracle in oracles() if not oracle.name.startswith("demo")]
SCORE_TOLERANCE: Final = 2e-3
"""What is promised of a score in fp16; and that a label stays the best if it leads by more than this:"""
SURE: Final = 0.01


def answers(models: Path, precision: Precision) -> Replies:
    """What a server on the GPU answers to every question."""
    options = (
        "--device",
        "cuda",
        "--precision",
        precision,
        "--batch-tokens",
        "512",
        "--workers",
        "2",
        "--no-access-log",
    )
    with serving(models, *options, "--max-queue-s", "600", "--request-timeout-s", "600") as server:
        replies = ask_everything(server.url, SMALL)
        on_cuda = server.metric("bert_model_info", provider="CUDAExecutionProvider", variant=f"cuda-{precision}")
        assert on_cuda == len(SMALL)
        assert server.stop() == 0, server.log
    return replies


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, gpu_bundle_of: GpuBundleOf) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for oracle in SMALL:
        (folder / oracle.name).symlink_to(gpu_bundle_of(oracle.name))
    return folder


@pytest.fixture(scope="session")
def fp32(models: Path) -> Replies:
    return answers(models, "fp32")


@pytest.fixture(scope="session")
def fp16(models: Path) -> Replies:
    return answers(models, "fp16")


@each_oracle(demo=False)
def test_fp32_answers_are_those_of_the_pipeline(oracle: Oracle, fp32: Replies) -> None:
    assert_as_stored(oracle, fp32)


@each_oracle(demo=False)
def test_fp16_scores_are_near_and_sure_labels_stay(oracle: Oracle, fp16: Replies) -> None:
    for question, reply in fp16[oracle.name]:
        asked = f"{question.input!r} with {question.parameters}"
        assert reply.status == 200, f"{asked}: {reply.body}"
        assert reply.body["usage"] == {"tokens": question.tokens, "truncated": question.truncated}, asked
        if oracle.task == "classify" and "regression" not in oracle.name and _are_scores(question):
            _assert_near(reply.body["predictions"][0], question.prediction, asked)


def _are_scores(question: Question) -> bool:
    return question.parameters.get("function_to_apply") != "none"  # then they are logits, of any size


def _assert_near(got: list[Any], expected: list[Any], asked: str) -> None:
    scores = {one["label"]: one["score"] for one in got}
    if len(expected) == 1 or expected[0]["score"] - expected[1]["score"] > SURE:
        assert got[0]["label"] == expected[0]["label"] or len(expected) == 1, asked
    for one in expected:
        if one["label"] in scores:
            assert scores[one["label"]] == pytest.approx(one["score"], abs=SCORE_TOLERANCE), asked
