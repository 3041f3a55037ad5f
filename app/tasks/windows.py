"""A text of whatever length as what a model can read: cut, or in windows that share some tokens.

The windows are those of the `tokenizers` library's truncation with a stride.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from app.errors import ValidationFailed
from app.messages import IntArray, TokenSequence
from app.schemas import MAX_INPUTS
from app.tasks.base import NO_MASKS, Prepared
from app.tokenization import Direction, Located

MAX_WINDOWS: Final = MAX_INPUTS
"""The most that one request may make, which is the most sequences that any other request may have. A stride of nearly the
model's length would make a window for each token of a text: of 4 MB more than there is memory."""

SHORT_BYTES: Final = 2048
"""Largest body whose texts are tokenized and spread on the event loop: about 1 ms, as the offsets take most of the time."""


@dataclass(frozen=True, slots=True)
class Window:
    """A sequence, and which of its tokens are those of the text.

    They are the ones from `begin`, as many as there are offsets.
    """

    sequence: TokenSequence
    begin: int
    offsets: IntArray  # int64[tokens of the text, 2], characters of the whole text
    words: IntArray  # int64[tokens of the text]


@dataclass(frozen=True, slots=True)
class PreparedWindows(Prepared):
    """The inputs of one request, each in as many windows as it takes; `sequences` are those of all windows, in order."""

    windows: list[list[Window]]


def prepared_windows(windows: list[list[Window]], truncated: int) -> PreparedWindows:
    """Return what is to be run for these windows, a list for each input."""
    return PreparedWindows([one.sequence for some in windows for one in some], truncated, windows)


def count_windows(tokens: int, room: int, stride: int) -> int:
    """Return how many windows `spread` makes of so many tokens."""
    return 1 + max(0, -(-(tokens - room) // (room - stride)))


def spread(text: range, room: int, stride: int, direction: Direction = "right") -> list[range]:
    """Return windows of `room` tokens, of which the last may be shorter; each shares `stride` tokens with the one before.

    They begin at the end that would be kept if the text were cut: with `left` the first one is the end of the text.
    """
    if direction == "left":
        return [part[::-1] for part in spread(text[::-1], room, stride)]
    step = room - stride
    return [text[first : first + room] for first in range(0, count_windows(len(text), room, stride) * step, step)]


def refuse_many(windows: int) -> None:
    """Raise if a request makes too many windows. Ask before they are made.

    Raises:
        ValidationFailed: it does.
    """
    if windows > MAX_WINDOWS:
        raise ValidationFailed(
            f"The inputs make {windows} windows, the most is {MAX_WINDOWS}. "
            "Lower parameters.stride, or send fewer or shorter inputs."
        )


def window(located: Located, before: IntArray, text: range, after: IntArray) -> Window:
    """Return the window of these tokens of the text, with these other tokens around them.

    Args:
        located: What they are tokens of.
        before: int64[tokens], positions.
        text: Positions of one text's tokens.
        after: int64[tokens], positions.
    """

    def around(array: IntArray) -> IntArray:
        return np.concatenate([array[before], array[text.start : text.stop], array[after]])

    return Window(
        TokenSequence(around(located.input_ids), around(located.token_type_ids), NO_MASKS),
        len(before),
        located.offsets[text.start : text.stop],
        located.words[text.start : text.stop],
    )
