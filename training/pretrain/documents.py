"""Documents of sentences, and those that are held out."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.texts import read_lines

FEWEST: Final = 2
"""Documents on either side: the next sentence of another one is needed."""
_END: Final = re.compile(r"""[.!?…]+["'”’»)\]]*\s+|[。！？]+[」』”’）]*\s*""")  # noqa: RUF001


def read_documents(files: Sequence[Path], encoding: str) -> Iterator[list[str]]:
    """Yield documents as their lines: an empty line ends one, and so does the end of a file.

    Raises:
        TrainingError: a file is in another encoding, or there is none of that name.
    """
    document: list[str] = []
    for line in read_lines(files, encoding):
        if line:
            document.append(line)
        elif document:
            yield document
            document = []


def split_sentences(line: str) -> Iterator[str]:
    """Yield the sentences of a line.

    One ends at `.`, `!`, `?` or `…` and what closes a quotation or a bracket after it, if a space and no lower-case letter
    follow; and at a full-width mark. So an abbreviation before a name ends one too.
    """
    begin = 0
    for mark in _END.finditer(line):
        end = mark.end()
        if end < len(line) and not line[end].islower():
            yield line[begin:end].rstrip()
            begin = end
    if begin < len(line):
        yield line[begin:]


def hold_out(documents: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Choose what is held out.

    Returns:
        [documents], true for one that is.

    Raises:
        TrainingError: there are too few documents, or nothing would be held out.
    """
    if not share:
        raise TrainingError("--eval-share 0 holds out nothing, and nothing would tell how well it learns: give more.")
    if documents < 2 * FEWEST:
        raise TrainingError(
            f"the texts have {documents} document{'s' if documents != 1 else ''}, and this needs {2 * FEWEST}: sentences of "
            "another document to learn from, and to hold out. An empty line, or a file of its own, begins a document."
        )
    count = min(max(FEWEST, round(share * documents)), documents - FEWEST)
    held_out: NDArray[Any] = np.zeros(documents, bool)
    held_out[np.random.default_rng(seed).choice(documents, count, replace=False)] = True
    return held_out
