"""Rows that nothing can be learnt from: told before minutes are spent, or left out if so asked."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from training.errors import TrainingError, few, tell


def without_bad_rows(
    rows: datasets.Dataset, fault_of: Callable[[dict[str, Any]], str | None], source: Path, *, skip: bool
) -> datasets.Dataset:
    """Return the rows that have no fault.

    Args:
        rows: All of them.
        fault_of: What is wrong with a row, as the end of a sentence: "have no text"; None if nothing is.
        source: Where they are from.
        skip: Whether to leave rows with a fault out.

    Raises:
        TrainingError: there are some and they are not to be left out, or no row is without.
    """
    faults: dict[str, list[int]] = defaultdict(list)
    good = []
    for i, row in enumerate(rows):
        if (fault := fault_of(row)) is None:
            good.append(i)
        else:
            faults[fault].append(i + 1)
    if not faults:
        return rows
    told = "; ".join(
        f"{len(numbers):,} {fault} (row{'s' if len(numbers) > 1 else ''} {few(numbers)})"
        for fault, numbers in faults.items()
    )
    if not skip:
        raise TrainingError(
            f"of the {len(rows):,} rows of {source}, {told}. Mend them, or --skip-bad-rows leaves them out."
        )
    if not good:
        raise TrainingError(f"no row of {source} can be learnt from: of {len(rows):,}, {told}.")
    tell(f"Left out of {source}: {told}.")
    return rows.select(good)


def require_columns(rows: datasets.Dataset, names: list[str], source: Path, option: str) -> None:
    """Check that the columns are there.

    Raises:
        TrainingError: one is not; the message lists those that are.
    """
    if missing := [name for name in names if name not in rows.column_names]:
        raise TrainingError(
            f"{source} has no column {few(missing)}; it has {few(rows.column_names)}. {option} names others."
        )
