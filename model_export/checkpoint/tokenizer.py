"""Read a checkpoint's tokenizer as transformers does, and write it as one `tokenizer.json`."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import tokenizers

from app.bundle.manifest import SpecialToken, SpecialTokens
from model_export.checkpoint.readable import check_readable
from model_export.errors import ExportError, one_line, shown

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

    `max_length` is None if the checkpoint does not name it. `tells_types` is whether its token types are passed to the
    model, `cleans_up` whether decoding joins punctuation to the word before it.
    """

    fast: tokenizers.Tokenizer
    special_tokens: SpecialTokens
    max_length: int | None
    tells_types: bool
    cleans_up: bool

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


def read_tokenizer(folder: Path) -> CheckpointTokenizer:
    """Return the tokenizer of the checkpoint in `folder`.

    Raises:
        ExportError: there is none, or there is only a slow one in Python.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ExportError(
            f"{folder} has no tokenizer: none of {', '.join(_VOCABULARIES)}. "
            "Save the tokenizer the model was trained with into it, with save_pretrained()."
        )
    if not any((folder / name).is_file() for name in _VOCABULARIES if not name.endswith(".model")) and not find_spec(
        "sentencepiece"
    ):
        raise ExportError(
            f"{folder} has its tokenizer as a sentencepiece model only, and sentencepiece is not installed. Run 'pip install "
            "sentencepiece' in this environment, or save the tokenizer where it is installed with save_pretrained(), which writes a "
            "tokenizer.json."
        )
    check_readable(*(folder / name for name in (*_VOCABULARIES, *_OTHER_FILES)), at_most_bytes=_MOST_BYTES)
    from transformers import AutoTokenizer  # noqa: PLC0415  # takes a second
    from transformers.tokenization_utils_base import LARGE_INTEGER  # noqa: PLC0415

    try:
        slow = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise ExportError(
            f"transformers cannot read the tokenizer in {folder} ({one_line(error)}). "
            "Save it again with save_pretrained(), which writes a tokenizer.json."
        ) from error
    if not slow.is_fast:
        raise ExportError(
            f"{folder} has a {type(slow).__name__}, which runs in Python only and has no tokenizer.json. "
            "Convert it to a fast tokenizer and save it into the folder."
        )
    fast = tokenizers.Tokenizer.from_str(slow.backend_tokenizer.to_str())
    fast.no_truncation()
    fast.no_padding()
    return CheckpointTokenizer(
        fast=fast,
        special_tokens=_special_tokens(folder, slow),
        max_length=_max_length(folder, slow.model_max_length, LARGE_INTEGER),
        tells_types="token_type_ids" in slow.model_input_names,
        # What decode() does: byte-pair tokenizers keep their spaces whatever the setting says.
        cleans_up=bool(slow.clean_up_tokenization_spaces) and type(fast.model).__name__ != "BPE",
    )


def _max_length(folder: Path, value: object, unlimited: int) -> int | None:
    if isinstance(value, int | float) and value >= unlimited:
        return None
    if type(value) is not int or value < 1:
        raise ExportError(
            f"tokenizer_config.json in {folder} has the model_max_length {shown(value)}; it must be a whole number from 1 up. Correct it."
        )
    return value


def _special_tokens(folder: Path, slow: Any) -> SpecialTokens:  # noqa: ANN401  # transformers has no types
    found = {
        name: SpecialToken(id=token_id, text=text)
        for name, text, token_id in (
            ("pad", slow.pad_token, slow.pad_token_id),
            ("unknown", slow.unk_token, slow.unk_token_id),
            ("mask", slow.mask_token, slow.mask_token_id),
        )
        if token_id is not None
    }
    for name in ("pad", "unknown"):
        if name not in found:
            raise ExportError(f"The tokenizer in {folder} has no {name} token. Name it in its tokenizer_config.json.")
    return SpecialTokens(**found)
