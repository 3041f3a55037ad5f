"""The checkpoint that a command starts from: what it is, and whether its tokenizer fits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from model_export.checkpoint.families import FAMILIES
from training.errors import TrainingError, share, tell

_MANY_UNKNOWN: Final = 0.3
_SOME_UNKNOWN: Final = 0.02
_SAMPLE: Final = 2000
"""Texts that tell whether a tokenizer knows a language."""
_LONGEST: Final = 512


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder or a name on the hub, with its configuration and its tokenizer, whose `model_max_length` is `max_length`."""

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @property
    def max_length(self) -> int:
        """The most tokens that the network takes."""
        positions = getattr(self.config, "max_position_embeddings", _LONGEST)
        follows = FAMILIES[self.config.model_type].positions_follow_padding
        offset = (self.config.pad_token_id or 0) + 1 if follows else 0
        return int(min(positions - offset, self.tokenizer.model_max_length))

    def length(self, wanted: int | None, usual: int | None = None) -> int:
        """Return how many tokens of a text it gets: as many as are wanted, else as usual, or all that it takes.

        Raises:
            TrainingError: it takes fewer than are wanted, or these have no room for two texts.
        """
        least = self.tokenizer.num_special_tokens_to_add(pair=True) + 2
        if wanted is None:
            return min(usual or self.max_length, self.max_length)
        if not least <= wanted <= self.max_length:
            raise TrainingError(
                f"--max-length {wanted} is not from {least}, which two texts of a token need, to {self.max_length}, the most "
                f"that {self.name} takes."
            )
        return wanted


def open_checkpoint(name: str) -> Checkpoint:
    """Read the configuration and the tokenizer of a checkpoint.

    Raises:
        TrainingError: there is none, it is of another family, or its tokenizer has tokens that it has no embeddings for.
    """
    if not Path(name).is_dir() and (Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise TrainingError(f"{name} is no folder of a checkpoint.")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers, its tokenizers and the hub all raise their own
        raise TrainingError(f"{name} cannot be read, as a folder or from the hub: {_first_sentence(error)}") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise TrainingError(
            f"the tokenizer of {name} cannot be read: {_first_sentence(error)} It needs tokenizer.json, or vocab.txt, or vocab.json "
            "with merges.txt."
        ) from None
    if config.model_type not in FAMILIES:
        raise TrainingError(f"{name} is of the family {config.model_type}; known are {', '.join(FAMILIES)}.")
    if not tokenizer.is_fast:
        raise TrainingError(f"{name} has no fast tokenizer (tokenizer.json), which tells where in the text a token is.")
    if set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}:
        files = " or ".join(sorted(tokenizer.vocab_files_names.values()))
        raise TrainingError(f"{name} has no vocabulary: {files} is missing. Save its tokenizer there, too.")
    if len(tokenizer) > config.vocab_size:
        raise TrainingError(
            f"the tokenizer of {name} does not fit: it has {len(tokenizer):,} tokens, and the network embeddings for "
            f"{config.vocab_size:,}."
        )
    checkpoint = Checkpoint(name, config, tokenizer)
    tokenizer.model_max_length = checkpoint.max_length
    return checkpoint


@contextmanager
def reading_weights(name: str) -> Iterator[None]:
    """Say which checkpoint it is whose weights cannot be read.

    Raises:
        TrainingError: the block could not read them.
    """
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:  # transformers, torch and safetensors all raise their own
        raise TrainingError(
            f"the weights of {name} cannot be read: {_first_sentence(error)} Download them again; of a pytorch_model.bin, "
            "tensors alone are read."
        ) from None


def _first_sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].partition(". ")[0].strip(" .") + "."


def check_language(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Check that the tokenizer knows what the texts are written in; print a warning if it knows much of it not.

    Raises:
        TrainingError: it does not.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    step = max(1, len(texts) // _SAMPLE)
    ids = np.concatenate(
        [
            np.array(one, int)
            for one in tokenizer(list(texts[::step]), add_special_tokens=False, verbose=False)["input_ids"]
        ]
    )
    count = int((ids == unknown).sum())
    if count > _MANY_UNKNOWN * len(ids):
        raise TrainingError(
            f"the tokenizer does not fit these texts: {share(count, len(ids))} tokens are unknown to it. Take one of "
            "their language."
        )
    if count > _SOME_UNKNOWN * len(ids):
        tell(
            f"{share(count, len(ids))} tokens are unknown to the tokenizer: is the checkpoint of the language of the texts?"
        )
