"""Pairs: half of them random, never of one document, as long as asked; the same from the same seed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.training.pretrain.language import make_corpus, make_tokenizer

pytestmark = pytest.mark.torch

LENGTH = 64


def examples_of(corpus: Any, seed: int = 0) -> Any:
    from training.pretrain.examples import Examples

    return Examples(corpus, make_tokenizer(60), max_length=LENGTH, seed=seed)


def parts(example: Any) -> tuple[Any, Any]:
    """Return A and B as they were before the masking."""
    ids = np.where(example["labels"] == -100, example["input_ids"], example["labels"])
    types = example["token_type_ids"]
    assert ids[0] == 2
    assert ids[types == 0][-1] == ids[-1] == 3
    return ids[types == 0][1:-1], ids[types == 1][:-1]


def test_a_b_that_is_not_next_is_of_another_document() -> None:
    examples = examples_of(make_corpus())
    labels = []
    for i in range(examples.per_epoch * 3):
        first, second = parts(examples[i])
        label = int(examples[i]["next_sentence_label"])
        assert len(set(first)) == 1
        assert set(second) == set(first) if label == 0 else len(set(second)) == int(label == 1)
        assert label != 1 or first[0] != second[0]
        labels.append(label)
    # A last sentence of a document has none behind it, and stands alone.
    assert labels.count(-100) / len(labels) == pytest.approx(0.1, abs=0.06)
    assert labels.count(0) == pytest.approx(labels.count(1), rel=0.15)


def test_half_of_the_random_texts_are_of_the_same_source_where_that_has_another_document() -> None:
    source = np.array([0, *[1] * 19, *[2] * 20])
    examples = examples_of(replace(make_corpus(documents=40), source=source))
    same = []
    for i in range(examples.per_epoch * 6):
        first, second = parts(examples[i])
        if examples[i]["next_sentence_label"] == 1:
            a, b = source[first[0] - 5], source[second[0] - 5]
            assert a or b
            same.append(a == b)
    # Of any documents, half are of the same source, too.
    assert np.mean(same) == pytest.approx(0.75, abs=0.05)


def test_examples_are_full_but_for_a_tenth_and_the_ends_of_documents() -> None:
    examples = examples_of(make_corpus(documents=20, sentences=200))
    sizes = np.array([len(examples[i]["input_ids"]) for i in range(examples.per_epoch)])
    assert sizes.max() == LENGTH
    assert (sizes < LENGTH - 10).mean() == pytest.approx(0.1, abs=0.04)


def test_an_epoch_has_each_sentence_once() -> None:
    from training.pretrain.packing import FOLLOWS, Pair, pack

    corpus = make_corpus()
    for seed in ("a", "b"):
        seen = np.zeros(len(corpus.sentences) - 1, int)
        for row in pack(corpus, LENGTH, seed):
            pair = Pair(*row.tolist())
            seen[pair.begin : pair.end if pair.label == FOLLOWS else pair.split] += 1
        assert (seen == 1).all()


def test_a_long_pair_loses_tokens_of_the_longer_text() -> None:
    examples = examples_of(make_corpus(sizes=(50, 60)))
    for i in range(examples.per_epoch):
        first, second = parts(examples[i])
        if len(second):
            assert len(first) + len(second) == LENGTH - 3 or len(examples[i]["input_ids"]) < LENGTH
            assert min(len(first), len(second)) >= (LENGTH - 3) // 2


def test_an_item_depends_on_its_index_alone() -> None:
    corpus = make_corpus()
    in_order, anew = examples_of(corpus), examples_of(corpus)
    count = in_order.per_epoch
    made = [in_order[i] for i in range(2 * count)]
    for i in (2 * count - 1, 3, count, 0):
        assert all((anew[i][name] == made[i][name]).all() for name in made[i])


def test_epochs_and_seeds_differ() -> None:
    corpus = make_corpus()
    examples, other = examples_of(corpus), examples_of(corpus, seed=1)
    count = examples.per_epoch
    first = [examples[i]["input_ids"].tolist() for i in range(count)]
    assert not any(ids in first for ids in ([examples[count + i]["input_ids"].tolist() for i in range(count)]))
    assert not any(other[i]["input_ids"].tolist() in first for i in range(count))


def test_a_batch_is_as_long_as_its_longest() -> None:
    from training.pretrain.examples import Collator

    examples = [examples_of(make_corpus())[i] for i in range(8)]
    batch = Collator(make_tokenizer(60))(examples)
    assert batch["next_sentence_label"].shape == (8,)
    for row, example in enumerate(examples):
        size = len(example["input_ids"])
        assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (batch["input_ids"].shape[1] - size)
        assert set(batch["input_ids"][row, size:].tolist()) <= {0}
        assert set(batch["labels"][row, size:].tolist()) <= {-100}


def test_the_last_tenth_of_the_steps_is_long(tmp_path: Any) -> None:
    from training.__main__ import _parser
    from training.pretrain.phases import Phases

    given = ["--batch-size", "2", "--max-steps", "20", "--max-length", "200"]
    options = _parser().parse_args(["pretrain", "--texts", "x", "--output", str(tmp_path), *given])
    phases = Phases(make_corpus(documents=20, sentences=200), make_tokenizer(60), options)  # type: ignore[arg-type]
    sizes = [len(example["input_ids"]) for example in phases.examples]
    assert len(sizes) == 40
    assert max(sizes[:36]) == 128
    assert max(sizes[36:]) == 200
