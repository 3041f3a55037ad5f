"""What ends a prediction before its last row. Each message names the file and what to do."""

from collections.abc import Sequence
from typing import Final

_MOST_LISTED: Final = 20


class CannotPredict(Exception):
    """The rows cannot be predicted, or not to the end."""


class WrongUse(CannotPredict):
    """The options do not fit each other, the input or the model."""


class CannotRead(CannotPredict):
    """The input cannot be read."""


class CannotWrite(CannotPredict):
    """The output cannot be written."""


class Stopped(Exception):
    """The run was asked to end early."""


def listed(names: Sequence[str]) -> str:
    """Return the names of columns as a message has them: not all, if there are many."""
    shown = ", ".join(map(repr, names[:_MOST_LISTED]))
    more = len(names) - _MOST_LISTED
    return f"{shown} and {more:,} more" if more > 0 else shown
