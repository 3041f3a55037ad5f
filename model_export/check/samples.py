"""The inputs that bundles are checked with: random batches of mixed lengths, and sentences for the golden answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import tokenizers

from app.bundle.manifest import GoldenCase, SpecialToken, Task
from model_export.checkpoint.network import IntArray
from model_export.errors import ExportError

_SEED: Final = 20181011
_LENGTHS: Final = (17, 1, 33, 2, 5)

_LONG: Final = (
    "We have used the old version for years and were content with it. The new one starts faster, looks cleaner and "
    "costs less, yet it forgets its settings each night, its manual is wrong, and nobody answers our letters."
)

# {mask} is the checkpoint's mask token. The first text is a single token, for models with a very small maximum length.
_SENTENCES: Final = (
    ("!", None),
    ("I love this product", None),
    ("This is a bad product", None),
    ("The film was slow at first, but its last hour is among the best I have ever seen.", None),
    ("No.", None),
    ("Where is my order #40317? It should have come on 3 May!", None),
    ("Der Kaffee war kalt und die Bedienung unfreundlich.", None),
    ("Le service était impeccable, même à Noël.", None),
    ("El niño comió una manzana mañana por la mañana.", None),
    ("这家餐厅的菜很好吃服务也不错。", None),
    ("これはとても良い本です。", None),
    ("Эта книга мне совсем не понравилась.", None),
    ("الخدمة كانت ممتازة", None),
    ("Great 👍👍 would buy again 😀", None),
    ("A man is playing a guitar.", "Someone is making music."),
    ("Is the shop open on Sundays?", "No, it opens from Monday to Saturday, from nine until six."),
    (_LONG, None),
)
# A sentence and a possible next one, or a question and a possible context.
_PAIRS: Final = (
    ("!", "!"),
    ("Where?", "In Paris."),
    ("Who?", "The cat on the mat."),
    ("Is it good?", "Yes, it is very good."),
    ("Hello.", "Good day."),
    ("Is the shop open on Sundays?", "No, it opens from Monday to Saturday, from nine until six."),
    ("Who wrote the letter?", "The letter was written by my sister in 1987."),
    ("A man is playing a guitar.", "Someone is making music."),
    ("It was raining.", "We took an umbrella."),
    ("It was raining.", "The square root of 9 is 3."),
    ("What does it cost?", "Where is my order #40317?"),
    ("Wo war der Kaffee kalt?", "Im Café am Bahnhof war der Kaffee kalt."),
    ("À quelle heure ?", "Le train part à 7 h 45, même à Noël."),
    ("谁喜欢喝茶?", "我喜欢喝茶,不喜欢喝咖啡。"),
    ("Где книга?", "Книга лежит на столе."),
    ("Great 👍", "😀 would buy again"),
    ("How long have they used the old version?", _LONG),
)
_MASKED: Final = (
    "{mask}",
    "The capital of France is {mask}.",
    "{mask} is the largest planet.",
    "He drank a cup of {mask}.",
    "I {mask} this product",
    "A doctor works in a {mask}.",
    "She opened the {mask} and looked outside.",
    "It was raining, so we took an {mask}",
    "The {mask} of the {mask} was long.",
    "Der {mask} war kalt.",
    "Le {mask} était impeccable, même à Noël.",
    "El niño comió una {mask}.",
    "这家餐厅的{mask}很好吃。",
    "これは{mask}本です。",
    "Эта {mask} мне не понравилась.",
    "Great 👍 would {mask} again 😀",
    _LONG.replace("settings", "{mask}"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence. `masks` int64[masks] are the positions of its mask tokens; empty if the task is not fill-mask."""

    input_ids: IntArray
    token_type_ids: IntArray
    masks: IntArray

    @classmethod
    def of(cls, case: GoldenCase, mask: SpecialToken | None, task: Task) -> "Sample":
        """Return the sequence of a golden case."""
        input_ids = np.array(case.input_ids, np.int64)
        is_mask = input_ids == (mask.id if mask and task == "fill-mask" else -1)
        return cls(input_ids, np.array(case.token_type_ids, np.int64), np.flatnonzero(is_mask))


def random_samples(*, max_length: int, vocab_size: int, mask: SpecialToken | None, task: Task) -> list[Sample]:
    """Return a batch of random tokens: lengths from 1 to `max_length`, mixed; the same for the same arguments."""
    generator = np.random.default_rng(_SEED)
    samples = []
    for length in [*(length for length in _LENGTHS if length < max_length), max_length]:
        input_ids = generator.integers(0, vocab_size, length)
        token_type_ids = (np.arange(length) >= length / 2).astype(np.int64)
        masks = np.empty(0, np.int64)
        if task == "fill-mask" and mask is not None:
            input_ids[generator.choice(length, min(length, 2), replace=False)] = mask.id
            masks = np.flatnonzero(input_ids == mask.id)
        samples.append(Sample(input_ids, token_type_ids, masks))
    return samples


def golden_cases(
    tokenizer: tokenizers.Tokenizer, *, max_length: int, mask: SpecialToken | None, task: Task
) -> list[GoldenCase]:
    """Return the sentences that fit into `max_length`, tokenized but without answers.

    Raises:
        ExportError: none fits.
    """
    cases = []
    for text, text_pair in _texts(mask, task):
        encoding = tokenizer.encode(text, text_pair)
        if len(encoding.ids) <= max_length:
            cases.append(
                GoldenCase(
                    text=text,
                    text_pair=text_pair,
                    input_ids=tuple(encoding.ids),
                    token_type_ids=tuple(encoding.type_ids),
                )
            )
    if not cases:
        raise ExportError(f"Not even one word fits into {max_length} tokens. Raise --max-length.")
    return cases


def _texts(mask: SpecialToken | None, task: Task) -> Iterator[tuple[str, str | None]]:
    match task:
        case "classify":
            yield from _SENTENCES
        case "entities" | "embed":
            yield from ((text, None) for text, text_pair in _SENTENCES if text_pair is None)
        case "next-sentence" | "answer":
            yield from _PAIRS
        case "fill-mask" if mask is not None:
            yield from ((text.format(mask=mask.text), None) for text in _MASKED)
