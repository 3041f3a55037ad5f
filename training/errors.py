"""What ends a command, and what its messages are made of."""

import sys
from collections.abc import Sequence
from typing import Final

_FEW: Final = 5


class TrainingError(Exception):
    """A command cannot begin or go on. The message says why and what to do."""


class Stopped(SystemExit):
    """SIGTERM: what Ctrl-C is without a terminal. The message says how to go on."""


def few(names: Sequence[object]) -> str:
    """Return a list of names or numbers that is not too long for a sentence."""
    more = len(names) - _FEW
    return ", ".join(map(str, names[:_FEW])) + (f" and {more:,} more" if more > 0 else "")


def share(part: int, whole: int) -> str:
    """Return how many of how many, for a sentence: `12 of 1,000 (1.2%)`."""
    return f"{part:,} of {whole:,} ({part / max(whole, 1):.1%})"


def tell(text: str) -> None:
    """Print a line that is no result: how far a command is, or what it leaves out."""
    print(text, file=sys.stderr)
