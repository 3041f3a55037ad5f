"""Rows that nothing can be learnt from: told before minutes are spent, or left out if so asked."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import datasets

from training.errors import TrainingError, few, share, tell


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


def fault_of_texts(cells: Sequence[Any]) -> str | None:
    """Return what is wrong with the texts of a row, as the end of a sentence."""
    if not all(isinstance(cell, str) for cell in cells):
        return "have a text that is none"
    return None if all(cell.strip() for cell in cells) else "have an empty text"


def parse_rows(
    rows: datasets.Dataset, parse: Callable[[dict[str, Any]], dict[str, Any]], source: Path, *, skip: bool
) -> datasets.Dataset:
    """Return what `parse` makes of each row; its ValueError says the fault of a row. Others as of `without_bad_rows`."""

    def fault_of(row: dict[str, Any]) -> str | None:
        try:
            parse(row)
        except ValueError as error:
            return str(error)
        return None

    return datasets.Dataset.from_list([parse(row) for row in without_bad_rows(rows, fault_of, source, skip=skip)])


def without_labels(
    rows: datasets.Dataset, labels: Sequence[Collection[str]], bad: Collection[str], fault: str, *, skip: bool
) -> datasets.Dataset:
    """Return the rows that have none of some labels.

    Args:
        rows: All of them.
        labels: Of each row.
        bad: Labels that are to blame.
        fault: What is wrong with these, as the end of a sentence.
        skip: Whether to leave their rows out.

    Raises:
        TrainingError: there are some and their rows are not to be left out, or no row is without.
    """
    if not bad:
        return rows
    told = f"{len(bad):,} of {len(set().union(*labels)):,} labels {fault}: {few(sorted(bad))}"
    if not skip:
        raise TrainingError(f"{told}. Merge or remove them, or --skip-bad-rows leaves their rows out.")
    good = [i for i, names in enumerate(labels) if not set(names) & set(bad)]
    if not good:
        raise TrainingError(f"{told}, and no row is without.")
    tell(f"Left out {share(len(rows) - len(good), len(rows))} rows: {told}.")
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
