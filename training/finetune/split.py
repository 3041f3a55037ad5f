"""Part rows into those to learn from and those that are held out."""

from collections import Counter
from collections.abc import Sequence

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from training.errors import TrainingError


def split(
    rows: datasets.Dataset, texts: Sequence[str], strata: Sequence[object] | None, share: float, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Part the rows at random; a text that occurs several times is on one side alone.

    Args:
        rows: All of them.
        texts: What each is about.
        strata: A label of each, whose shares are to be the same on both sides; None if there is none.
        share: Of the texts that are held out.
        seed: Of the chance.

    Raises:
        TrainingError: there are too few.
    """
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    groups = list(first.values())
    labels = None if strata is None else [strata[i] for i in groups]
    distinct = 1 if labels is None else len(set(labels))
    held = max(round(share * len(groups)), distinct)
    if share == 0 or len(groups) - held < distinct:
        raise TrainingError(
            f"{len(groups):,} different texts are too few to hold some of them out: give more, or --eval-share above 0, "
            "or --eval-data."
        )
    if labels is not None and min(Counter(labels).values()) < 2:
        labels = None  # the same text twice was all that a label had
    _, held_out = train_test_split(groups, test_size=held, random_state=seed, shuffle=True, stratify=labels)
    outside = {texts[i] for i in held_out}
    is_out = np.array([text in outside for text in texts])
    return rows.select(np.flatnonzero(~is_out)), rows.select(np.flatnonzero(is_out))
