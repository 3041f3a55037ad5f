"""The words of a text, and the tokens of each: what people read, where tokens are what a model reads.

Letters, digits and marks that touch are a word, with the apostrophes and hyphens between them, and the points and commas between
digits. Any other sign is a word, of which equal ones that touch are one. In a script without spaces each token is a word. Words
that have a token in common are one.
"""

import unicodedata
from dataclasses import dataclass
from typing import Final

from app.bundle.sequences import IntArray

_BETWEEN_LETTERS: Final = frozenset("'\u2019-\u2010")
_BETWEEN_DIGITS: Final = frozenset(".,:/")
_JOINER: Final = "\u200d"
"""Joins signs to one."""
_ATTACHED: Final = frozenset({"Mn", "Mc", "Me", "Cf", "Sk"})
"""The categories of what belongs to the character before: accents, joiners, the colours of a skin."""
_WITHOUT_SPACES: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x31FF),  # parts of ideographs, kana, bopomofo
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
    (0x20000, 0x3FFFF),  # ideographs
)
"""Code points of the scripts that are written without spaces, the first and the last of each range."""


@dataclass(slots=True)
class Word:
    """A word: `text[start:end]`, and the positions of its tokens."""

    start: int
    end: int
    tokens: list[int]


def words_of(text: str, tokens: range, offsets: IntArray) -> list[Word]:
    """Return the words of a text that have tokens, in order.

    Args:
        text: The text.
        tokens: The positions of its tokens.
        offsets: int64[tokens, 2], the first character of each token and the one after the last.
    """
    if not len(tokens):
        return []
    begin, end = int(offsets[:, 0].min()), int(offsets[:, 1].max())
    units = _units(text, begin, end)
    unit_of = {character: i for i, unit in enumerate(units) for character in range(*unit)}
    found: list[Word] = []
    last = -1  # the last unit of the last word
    for position, (start, stop) in zip(tokens, offsets.tolist(), strict=True):
        covered = [unit_of[character] for character in range(start, stop) if character in unit_of]
        if not covered:  # it is of no character, or of spaces, and goes with the word before
            if found:
                found[-1].tokens.append(position)
            continue
        if not found or covered[0] > last:
            found.append(Word(units[covered[0]][0], 0, []))
        last = max(last, covered[-1])
        found[-1].end = units[last][1]
        found[-1].tokens.append(position)
    return found


def _units(text: str, begin: int, end: int) -> list[tuple[int, int]]:
    """Return the parts of `text[begin:end]` of which words are made, without the spaces between them."""
    units: list[tuple[int, int]] = []
    for i in range(begin, end):
        if text[i].isspace():
            continue
        if units and units[-1][1] == i and _goes_on(text, units[-1][0], i, end):
            units[-1] = units[-1][0], i + 1
        else:
            units.append((i, i + 1))
    return units


def _goes_on(text: str, first: int, i: int, end: int) -> bool:
    """Return whether the character `i` belongs to the unit that begins at `first` and ends before it."""
    before, character = text[i - 1], text[i]
    if before == _JOINER or unicodedata.category(character) in _ATTACHED:
        return True
    if not _is_letter(text[first]):
        return character == before == text[first]
    if _has_no_spaces(before) or _has_no_spaces(character):
        return False
    after = text[i + 1] if i + 1 < end else " "
    return (
        _is_letter(character)
        or (character in _BETWEEN_LETTERS and _is_letter(before) and _is_letter(after))
        or (character in _BETWEEN_DIGITS and before.isdigit() and after.isdigit())
    )


def _is_letter(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LNM"


def _has_no_spaces(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _WITHOUT_SPACES)
