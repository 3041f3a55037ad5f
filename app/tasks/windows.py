"""Fit a text of any length to the model: cut it, or read it in windows that share some tokens.

The windows equal those of the `tokenizers` library's truncation with a stride.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from app.bundle.sequences import IntArray, TokenArray, TokenSequence
from app.errors import ValidationFailed
from app.tasks.base import Prepared, without_tokens
from app.tasks.inputs import MAX_INPUTS
from app.text.located import Located
from app.text.tokenizer import Direction
from app.work import go_on

MAX_WINDOWS: Final = MAX_INPUTS
"""Most windows of a request, equal to the most sequences that any other request may have. With a stride of nearly the
model's length, each token of a text makes a window, which for a text of 4 MB takes more memory than there is."""

SHORT_BYTES: Final = 2048
"""Largest body that is tokenized on the event loop, which takes about 1 ms; the offsets take most of that."""


@dataclass(frozen=True, slots=True)
class Window:
    """A sequence, and which of its tokens belong to the text: those from `begin`, one for each of the offsets."""

    sequence: TokenSequence
    begin: int
    offsets: IntArray  # int64[tokens of the text, 2], characters of the whole text
    words: IntArray  # int64[tokens of the text]


@dataclass(frozen=True, slots=True)
class PreparedWindows(Prepared):
    """The inputs of one request, each as a list of windows; `sequences` are those of all windows, in order."""

    windows: list[list[Window]]


def prepared_windows(windows: list[list[Window]], truncated: int) -> PreparedWindows:
    """Return the sequences to run for these windows, which are one list per input.

    Raises:
        ValidationFailed: an input has no tokens.
    """
    for i, some in enumerate(windows):
        if not all(len(one.sequence) for one in some):
            raise without_tokens(f"inputs[{i}]")
    return PreparedWindows([one.sequence for some in windows for one in some], truncated, windows)


def count_windows(tokens: int, room: int, stride: int) -> int:
    """Return how many windows `spread` makes of this many tokens."""
    return 1 + max(0, -(-(tokens - room) // (room - stride)))


def spread(text: range, room: int, stride: int, direction: Direction = "right") -> list[range]:
    """Return windows of `room` tokens; the last may be shorter. Each shares `stride` tokens with the one before.

    The first window is at the end that truncation would keep: with `left` that is the end of the text.
    """
    if direction == "left":
        return [part[::-1] for part in spread(text[::-1], room, stride)]
    step = room - stride
    return [text[first : first + room] for first in range(0, count_windows(len(text), room, stride) * step, step)]


def refuse_many(windows: int) -> None:
    """Refuse a request with too many windows. Call this before they are made.

    Raises:
        ValidationFailed: there are too many.
    """
    if windows > MAX_WINDOWS:
        raise ValidationFailed(
            f"The inputs make {windows} windows; at most {MAX_WINDOWS} are allowed. "
            "Lower parameters.stride, or send fewer or shorter inputs."
        )


def window(located: Located, before: IntArray, text: range, after: IntArray) -> Window:
    """Return a window with some tokens of the text and others around them.

    Args:
        located: The tokenized input.
        before: int64[tokens], positions of the tokens before those of the text.
        text: Positions of the text's tokens.
        after: int64[tokens], positions of the tokens after those of the text.
    """
    go_on()

    def around(array: TokenArray) -> TokenArray:
        return np.concatenate([array[before], array[text.start : text.stop], array[after]])

    return Window(
        TokenSequence(around(located.input_ids), around(located.token_type_ids)),
        len(before),
        located.offsets[text.start : text.stop],
        located.words[text.start : text.stop],
    )
