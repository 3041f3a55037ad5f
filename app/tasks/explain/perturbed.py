"""A tokenized input, and the same without some of its words."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from app.bundle.sequences import IntArray, TokenSequence
from app.tasks.explain.attribution import Coalitions
from app.tasks.explain.subjects import Subject
from app.text.located import Located
from app.text.words import words_of

Perturbation = Literal["mask", "remove"]
FIELDS: Final = ("text", "text_pair")


@dataclass(frozen=True, slots=True)
class LocatedWord:
    """A word, and which of the two texts it is in: `text` or `text_pair`."""

    field: str
    word: str
    start: int
    end: int
    tokens: list[int]


def located_words(texts: tuple[str, ...], located: Located, fixed: int | None) -> list[LocatedWord]:
    """Return the words of all texts of an input, but for those with a token `fixed`."""
    return [
        LocatedWord(field, text[one.start : one.end], one.start, one.end, one.tokens)
        for field, text, tokens in zip(FIELDS, texts, located.texts, strict=False)
        for one in words_of(text, tokens, located.offsets[tokens.start : tokens.stop])
        if fixed not in located.input_ids[one.tokens]
    ]


class Perturbed:
    """Makes the sequences of one input."""

    def __init__(self, located: Located, words: list[LocatedWord], mask: int | None) -> None:
        """Take the input, the words that may be absent, and what each token of an absent word becomes; None to leave it out."""
        self.perturbation: Final[Perturbation] = "remove" if mask is None else "mask"
        self._located: Final = located
        self._mask: Final = mask
        self._word_of: IntArray = np.full(len(located.input_ids), len(words), np.int64)
        for number, word in enumerate(words):
            self._word_of[word.tokens] = number

    def sequences(self, coalitions: Coalitions, subject: Subject) -> list[TokenSequence]:
        """Return a sequence for each row of words that are there, bool[runs, words], with what the subject asks for."""
        ids, types, masks = self._located.input_ids, self._located.token_type_ids, subject.masks
        always = np.ones((len(coalitions), 1), np.bool_)
        kept = np.hstack([coalitions, always])[:, self._word_of]
        if self._mask is not None:
            rows = np.where(kept, ids, np.int32(self._mask))
            return [TokenSequence(row, types, masks, subject.top_k, subject.targets) for row in rows]
        places = np.cumsum(kept, axis=1)[:, masks] - 1
        return [
            TokenSequence(ids[tokens], types[tokens], place.astype(np.int32), subject.top_k, subject.targets)
            for tokens, place in zip(kept, places, strict=True)
        ]
