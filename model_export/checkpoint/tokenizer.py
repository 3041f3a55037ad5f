"""Read a checkpoint's tokenizer as transformers does, and write it as one `tokenizer.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers

from app.bundle.manifest import SpecialToken, SpecialTokens
from model_export.checkpoint.readable import check_readable
from model_export.errors import ExportError, one_line

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
        return int(max(self.fast.get_vocab(with_added_tokens=True).values())) + 1


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
        max_length=slow.model_max_length if slow.model_max_length < LARGE_INTEGER else None,
        tells_types="token_type_ids" in slow.model_input_names,
        # What decode() does: byte-pair tokenizers keep their spaces whatever the setting says.
        cleans_up=bool(slow.clean_up_tokenization_spaces) and type(fast.model).__name__ != "BPE",
    )


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
