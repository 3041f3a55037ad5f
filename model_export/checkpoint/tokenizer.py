"""Read a checkpoint's tokenizer, and what the server needs to know of it that is not in its `tokenizer.json`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers

from app.bundle.manifest import SpecialToken, SpecialTokens, TruncationSide
from model_export.checkpoint.readable import check_readable
from model_export.checkpoint.tokenizer_choice import TokenizerChoice, choose_tokenizer, encode_texts
from model_export.errors import ExportError, shown

# Without one of these files, transformers silently makes an empty vocabulary.
_VOCABULARIES: Final = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
_OTHER_FILES: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_MOST_BYTES: Final = 1 << 28
"""The tokenizers of a quarter of a million tokens have 20 MB."""


@dataclass(frozen=True, slots=True)
class CheckpointTokenizer:
    """The tokenizer of a checkpoint, without truncation and padding.

    `max_length` is None if the checkpoint does not name it. `truncation_side` is the end that is cut off,
    `splits_special_tokens` whether special tokens within a text are read as text, `tells_types` whether its token types are
    passed to the model, `cleans_up` whether decoding joins punctuation to the word before it, `pads_left` whether padding
    would stand first. `origin` says where it is from, for people.
    """

    fast: tokenizers.Tokenizer
    special_tokens: SpecialTokens
    max_length: int | None
    truncation_side: TruncationSide
    splits_special_tokens: bool
    tells_types: bool
    cleans_up: bool
    pads_left: bool
    origin: str

    @property
    def ids(self) -> int:
        """One more than the largest token id."""
        return int(max(self.fast.get_vocab(with_added_tokens=True).values(), default=-1)) + 1

    def added_beyond(self, vocab_size: int) -> list[str]:
        """Return the tokens from an id on; none if the vocabulary has some itself, or a text without them needs one."""
        beyond = {token: i for token, i in self.fast.get_vocab(with_added_tokens=True).items() if i >= vocab_size}
        needed = {self.special_tokens.unknown.id, *self.fast.encode("a").ids}
        if beyond.keys() & self.fast.get_vocab(with_added_tokens=False).keys() or needed & set(beyond.values()):
            return []
        return sorted(beyond, key=beyond.__getitem__)

    @property
    def last_type(self) -> int:
        """The largest token type of a pair."""
        return int(max(self.fast.encode("a", "a").type_ids, default=0))


def read_tokenizer(folder: Path, choice: TokenizerChoice = "auto") -> CheckpointTokenizer:
    """Return the tokenizer of the checkpoint in `folder`.

    Raises:
        ExportError: there is none, there is only a slow one in Python, or there are two and `choice` does not say which.
    """
    if not any(os.path.lexists(folder / name) for name in _VOCABULARIES):
        raise ExportError(
            f"{folder} has no tokenizer: none of {', '.join(_VOCABULARIES)}. "
            "Save the tokenizer the model was trained with into it, with save_pretrained()."
        )
    check_readable(*(folder / name for name in (*_VOCABULARIES, *_OTHER_FILES)), at_most_bytes=_MOST_BYTES)
    from transformers.tokenization_utils_base import LARGE_INTEGER  # noqa: PLC0415  # takes a second

    reading = choose_tokenizer(folder, choice)
    fast, slow = reading.fast, reading.settings
    encode_texts(folder, fast)  # refuses one that fails
    return CheckpointTokenizer(
        fast=fast,
        special_tokens=_special_tokens(folder, slow),
        max_length=_max_length(folder, slow.model_max_length, LARGE_INTEGER),
        truncation_side=slow.truncation_side,
        splits_special_tokens=bool(slow.split_special_tokens),
        tells_types=reading.tells_types,
        cleans_up=bool(slow.clean_up_tokenization_spaces) and _may_be_cleaned_up(fast, slow),
        pads_left=slow.padding_side == "left",
        origin=reading.origin,
    )


def _max_length(folder: Path, value: object, unlimited: int) -> int | None:
    if isinstance(value, int | float) and value >= unlimited:
        return None
    if type(value) is not int or value < 1:
        raise ExportError(
            f"tokenizer_config.json in {folder} has the model_max_length {shown(value)}; it must be a whole number from 1 up. Correct it."
        )
    return value


def _may_be_cleaned_up(fast: tokenizers.Tokenizer, slow: Any) -> bool:  # noqa: ANN401  # transformers has no types
    """Return what decode() of transformers 5 does: byte-pair tokenizers keep their spaces unless a second setting insists."""
    insists = slow.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    return type(fast.model).__name__ != "BPE" or bool(insists)


def _special_tokens(folder: Path, slow: Any) -> SpecialTokens:  # noqa: ANN401  # transformers has no types
    texts = {"pad": slow.pad_token, "unknown": slow.unk_token, "mask": slow.mask_token}
    empty = [name for name, text in texts.items() if text == ""]
    if empty:  # what transformers makes of an object without content; it takes the id of the unknown token for its
        raise ExportError(
            f"The tokenizer in {folder} has an empty {empty[0]} token. Correct it in its tokenizer_config.json or special_tokens_map.json."
        )
    ids = (slow.pad_token_id, slow.unk_token_id, slow.mask_token_id)
    found = {
        name: SpecialToken(id=token_id, text=text)
        for (name, text), token_id in zip(texts.items(), ids, strict=True)
        if token_id is not None
    }
    for name in ("pad", "unknown"):
        if name not in found:
            raise ExportError(f"The tokenizer in {folder} has no {name} token. Name it in its tokenizer_config.json.")
    return SpecialTokens(**found)
