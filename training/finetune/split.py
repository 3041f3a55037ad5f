"""Part rows into those to learn from and those that are held out."""

from collections import defaultdict
from collections.abc import Sequence

import datasets
import numpy as np

from training.errors import TrainingError, tell
from training.errors import share as share_of


def split(
    rows: datasets.Dataset, texts: Sequence[str], strata: Sequence[str], share: float, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Part the rows at random; a text that occurs several times is on one side alone.

    Args:
        rows: All of them.
        texts: What each is about.
        strata: A label of each, whose shares are to be the same on both sides. One that several texts have is on both.
        share: Of the texts that are held out.
        seed: Of the chance.

    Raises:
        TrainingError: there are too few.
    """
    first: dict[str, str] = {}
    for text, stratum in zip(texts, strata, strict=True):
        first.setdefault(text, stratum)
    groups: dict[str, list[str]] = defaultdict(list)
    for text, stratum in first.items():
        groups[stratum].append(text)
    chance = np.random.default_rng(seed)
    outside: set[str] = set()
    for stratum in sorted(groups):
        group = groups[stratum]
        count = min(max(round(share * len(group)), 1), len(group) - 1)
        outside.update(group[i] for i in chance.choice(len(group), count, replace=False))
    if share == 0 or not outside:
        raise TrainingError(
            f"{len(first):,} different texts are too few to hold some of them out: give more, or --eval-share above 0, "
            "or --eval-data."
        )
    if len(outside) > round(share * len(first)) and any(round(share * len(group)) == 0 for group in groups.values()):
        tell(
            f"{share_of(len(outside), len(first))} texts are held out, more than --eval-share: one at least of each label."
        )
    is_out = np.array([text in outside for text in texts])
    return rows.select(np.flatnonzero(~is_out)), rows.select(np.flatnonzero(is_out))
