"""A small language is learnt in seconds, exported, and learnt on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.pretrain.language import TINY, make_corpus, write_texts

pytestmark = pytest.mark.torch

LEARN = ("--batch-size", 32, "--learning-rate", 3e-3, "--warmup-ratio", 0.1)


def figures(output: Path) -> Any:
    return json.loads((output / "evaluation.json").read_text())["held_out"]


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("language") / "texts.txt", documents=400)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, language: Path) -> Path:
    """A checkpoint that knows the language."""
    from training.__main__ import main

    output = tmp_path_factory.mktemp("learnt") / "bert"
    steps = ("--max-steps", 300, "--save-steps", 100)
    given = ("pretrain", "--texts", language, "--output", output, "--vocab-size", 200, *steps, *TINY, *LEARN)
    assert main([str(one) for one in given]) == 0
    return output


def test_it_knows_more_than_frequencies(learnt: Path) -> None:
    [row] = figures(learnt).values()
    assert row["masked_word_loss"] < 0.75 * row["unigram_entropy"]
    assert row["masked_word_accuracy"] > 0.3
    names = {path.name for path in learnt.iterdir()}
    assert {"README.md", "loss.png", "evaluation.json", "tokenizer.json", "model.safetensors"} <= names
    assert [path.name for path in learnt.parent.iterdir()] == ["bert"]


def test_the_library_computes_the_same_loss(learnt: Path) -> None:
    import torch
    import transformers

    from training.pretrain.examples import Collator, Examples
    from training.pretrain.network import BertForPreTraining

    tokenizer = transformers.AutoTokenizer.from_pretrained(learnt)
    examples = Examples(make_corpus(), tokenizer, max_length=32, seed=0)
    batch = Collator(tokenizer)([examples[i] for i in range(16)])
    losses = []
    for kind in (BertForPreTraining, transformers.BertForPreTraining):
        network = kind.from_pretrained(learnt).eval()
        assert network.config.architectures == ["BertForPreTraining"]
        with torch.inference_mode():
            losses.append(float(network(**batch)["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("task", ["fill-mask", "next-sentence"])
def test_it_is_exported(tmp_path: Path, learnt: Path, task: str) -> None:
    from model_export.__main__ import main

    given = ["export", "--checkpoint", str(learnt), "--output", str(tmp_path / task), "--task", task]
    assert main([*given, "--variants", "cpu-fp32"]) == 0


def test_a_checkpoint_goes_on(tmp_path: Path, language: Path, learnt: Path, training: Callable[..., str]) -> None:
    output = tmp_path / "on"
    given = ("--texts", language, "--output", output, "--checkpoint", learnt, "--max-length", 32)
    training("pretrain", *given, "--max-steps", 4, "--batch-size", 8, "--learning-rate", 1e-5)
    [before], [after] = (figures(folder).values() for folder in (learnt, output))
    assert after["masked_word_loss"] == pytest.approx(before["masked_word_loss"], abs=0.05)
    assert (output / "tokenizer.json").read_text() == (learnt / "tokenizer.json").read_text()


def test_a_step_in_parts_learns_what_a_whole_one_does(
    tmp_path: Path, language: Path, training: Callable[..., str]
) -> None:
    losses = []
    for parts in (1, 4):
        given = ("--texts", language, "--output", tmp_path / f"{parts}", "--vocab-size", 200, "--max-steps", 10, *TINY)
        training("pretrain", *given, *LEARN, "--gradient-accumulation-steps", parts)
        [row] = figures(tmp_path / f"{parts}").values()
        losses.append(row["masked_word_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_texts_of_one_sentence_each_are_learnt_from_and_no_next_sentence_is(
    tmp_path: Path, training: Callable[..., str]
) -> None:
    texts = write_texts(tmp_path / "texts.txt", sentences=1)
    given = ("--texts", texts, "--output", tmp_path / "bert", "--vocab-size", 200, "--max-steps", 4, *TINY, *LEARN)
    assert "how well next sentences are told stays unknown" in training("pretrain", *given)
    [row] = figures(tmp_path / "bert").values()
    assert row["next_sentence_accuracy"] == row["next_sentence_baseline"] == 0
    assert row["masked_word_loss"] > 0
