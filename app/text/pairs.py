"""One text or two as one sequence: the special tokens around them, and how many tokens of each are kept."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final, Literal

import numpy as np

from app.bundle.sequences import TokenArray
from app.errors import ValidationFailed

Strategy = Literal["longest_first", "only_first"]
"""Which of two texts that are too long together is cut: token by token the longer one, or the first alone."""


class Template:
    """The special tokens around one text or two, and the token types of all. Made once, used from any thread."""

    def __init__(self, owners: Sequence[int | None], input_ids: Sequence[int], token_type_ids: Sequence[int]) -> None:
        """Take a tokenized text or pair: for each token the number of its text, or None if it is a special token."""
        self._parts: Final[list[tuple[int | None, list[int]]]] = []
        types = []
        for owner, group in groupby(zip(owners, input_ids, token_type_ids, strict=True), key=lambda token: token[0]):
            tokens = list(group)
            for kind, alike in groupby(tokens, key=lambda token: token[2]):
                self._parts.append((owner, [token[1] for token in alike]))
                types.append(kind)
        self._types: Final = np.array(types, np.int32)
        self.special: Final = sum(owner is None for owner in owners)
        """How many special tokens there are."""

    def join(self, texts: Sequence[Sequence[int]]) -> tuple[TokenArray, TokenArray]:
        """Return the ids and the types of all texts, given without special tokens, as one sequence."""
        ids: list[int] = []
        lengths = []
        for owner, special in self._parts:
            tokens = special if owner is None else texts[owner]
            ids += tokens
            lengths.append(len(tokens))
        return np.array(ids, np.int32), np.repeat(self._types, lengths)

    def places(self, lengths: Sequence[int]) -> tuple[range, ...]:
        """Return where in the sequence the tokens of each text are; those of a text without any are at the end."""
        found, end = {}, 0
        for owner, special in self._parts:
            begin, end = end, end + (len(special) if owner is None else lengths[owner])
            if owner is not None and end > begin:
                found[owner] = range(begin, end)
        return tuple(found.get(i, range(end, end)) for i in range(len(lengths)))


def longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """Return how many tokens each of one or two texts keeps, as the library's strategy of this name does.

    Raises:
        ValidationFailed: the special tokens around the texts are more than the model takes, so that `room` is negative.
    """
    if room < 0:
        raise ValidationFailed(
            "This model takes fewer tokens at once than the special tokens around such an input. Send single texts, or export "
            "it with a larger --max-length."
        )
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    shorter = min(*lengths, room // 2)
    shares = [shorter, room - shorter]
    return shares if lengths[0] <= lengths[1] else shares[::-1]
