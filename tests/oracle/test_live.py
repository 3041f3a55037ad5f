"""With torch: the stored answers are what transformers answers today, and the service gives the live answers too."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from model_export.export import ExportOptions, export
from tests.oracle.answers import Json, Oracle, Question, assert_same, each_oracle, oracles
from tests.oracle.client import Reply

pytestmark = [
    pytest.mark.torch,
    # Of the pipeline, which the service follows in that too.
    pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning"),
]


@cache
def live(oracle: Oracle) -> Json:
    """Ask transformers now, once for all tests."""
    from tests.fixtures import make_answers  # noqa: PLC0415 - only here is torch needed

    make_answers.silence()
    return make_answers.answers(oracle.checkpoint, oracle.task)


@each_oracle()
def test_transformers_still_answers_as_stored(oracle: Oracle) -> None:
    stored = {**oracle.content, "made_with": None}
    assert_same({**live(oracle), "made_with": None}, stored, oracle.name)


@each_oracle()
def test_service_answers_as_transformers_does_now(
    oracle: Oracle, replies: Mapping[str, Sequence[tuple[Question, Reply]]]
) -> None:
    asked = {repr((question.input, question.parameters)): reply for question, reply in replies[oracle.name]}
    for case in live(oracle)["cases"]:
        for answer in case["answers"]:
            reply = asked[repr((case["input"], answer["parameters"]))]
            assert_same(reply.body["predictions"], [answer["prediction"]], repr(case["input"]))


def test_pickled_weights_give_the_same_graph(tmp_path: Path, models: Path) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    checkpoint = tmp_path / "bert-single-label"
    [original] = [oracle.checkpoint for oracle in oracles() if oracle.name == checkpoint.name]
    checkpoint.mkdir()
    for path in original.iterdir():
        if path.suffix != ".safetensors":
            (checkpoint / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(original / "model.safetensors"), checkpoint / "pytorch_model.bin")
    bundle = tmp_path / "bundle"
    export(ExportOptions(str(checkpoint), bundle, variants=["cpu-fp32"]), lambda _: None)
    graph = "cpu-fp32.onnx"
    assert (bundle / graph).read_bytes() == (models / checkpoint.name / graph).read_bytes()
