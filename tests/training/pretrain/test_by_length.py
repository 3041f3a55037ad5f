"""Batches have examples of about one length, and no example is lost."""

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch

BATCH = 8


@pytest.fixture(scope="module")
def examples() -> list[dict[str, Any]]:
    lengths = np.random.default_rng(0).integers(5, 100, 700).tolist()
    return [{"input_ids": np.full(length, i)} for i, length in enumerate(lengths)]


def batched(examples: list[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    from training.pretrain.by_length import ByLength

    source: Any = examples
    return list(ByLength(source, len(examples), batch_size=BATCH, seed=seed))


def number(example: dict[str, Any]) -> int:
    return int(example["input_ids"][0])


def test_each_example_comes_once(examples: list[dict[str, Any]]) -> None:
    assert sorted(map(number, batched(examples))) == list(range(len(examples)))


def test_little_of_a_batch_is_padding(examples: list[dict[str, Any]]) -> None:
    def tokens(rows: list[dict[str, Any]]) -> int:
        return sum(BATCH * max(len(row["input_ids"]) for row in rows[i : i + BATCH]) for i in range(0, 512, BATCH))

    own = sum(len(row["input_ids"]) for row in examples[:512])
    assert tokens(examples) > 1.5 * own
    assert tokens(batched(examples)) < 1.1 * own


def test_the_order_is_that_of_the_seed(examples: list[dict[str, Any]]) -> None:
    orders = [list(map(number, batched(examples, seed))) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    lengths = [len(row["input_ids"]) for row in batched(examples)[:256]]
    assert lengths != sorted(lengths)
