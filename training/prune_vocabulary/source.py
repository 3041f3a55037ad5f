"""The checkpoint: its folder, its config, and its tokenizer in the two ways in which it is read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers
from transformers import AutoTokenizer

from training.errors import TrainingError

TOKENIZER_FILE: Final = "tokenizer.json"
CONFIG_FILE: Final = "config.json"
_SMALL_FILES: Final = ("*.json", "*.txt", "*.model", "*.md")
_KINDS: Final = ("WordPiece", "Unigram", "BPE")


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine.

    `tokenizer` is transformers' own. `readings` are the two tokenizers that a checkpoint can have, without truncation and padding:
    tokenizer.json as it is, and what its class in transformers makes of it; one if they are the same.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    tokenizer: Any
    readings: list[tokenizers.Tokenizer]


def read_source(name: str) -> Source:
    """Return the checkpoint in the folder `name`, or the one of that name on the hub.

    Raises:
        TrainingError: there is none, or its tokenizer is none that can be pruned.
    """
    folder = Path(name) if Path(name).exists() else _download(name)
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError):
        raise TrainingError(f"{name} is not a checkpoint: {CONFIG_FILE} is missing or damaged.") from None
    tokenizer, readings = read_tokenizers(folder)
    kind = type(readings[0].model).__name__
    if kind not in _KINDS:
        raise TrainingError(f"the tokenizer of {name} is of the type {kind}; {', '.join(_KINDS)} can be pruned.")
    if readings[0].to_str() == readings[-1].to_str():
        del readings[1:]
    return Source(name, folder, config, tokenizer, readings)


def read_tokenizers(folder: Path) -> tuple[Any, list[tokenizers.Tokenizer]]:
    """Return transformers' tokenizer of a folder, and the two readings.

    Raises:
        TrainingError: there is none, or only one in Python.
    """
    file = folder / TOKENIZER_FILE
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not file.is_file() and type(tokenizer).__name__.startswith("Roberta"):
            # Version 5 forgets that this mask takes the space before it; such old files were trained with a version that knew.
            mask = tokenizers.AddedToken(tokenizer.mask_token, lstrip=True, special=True, normalized=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, mask_token=mask)
    except Exception as error:  # each class of transformers has its own
        raise TrainingError(f"transformers cannot read the tokenizer of {folder}: {_line(error)}") from error
    if not tokenizer.is_fast:
        raise TrainingError(
            f"{folder} has a {type(tokenizer).__name__}, which runs in Python only and has no {TOKENIZER_FILE}; "
            "convert it to a fast tokenizer first."
        )
    of_class = tokenizer.backend_tokenizer
    readings = [tokenizers.Tokenizer.from_buffer(file.read_bytes()) if file.is_file() else of_class, of_class]
    for reading in readings:
        reading.no_truncation()
        reading.no_padding()
    # Without a file that its class reads, transformers makes a tokenizer of special tokens alone.
    added = {token.content for token in of_class.get_added_tokens_decoder().values()}
    if of_class.get_vocab().keys() <= added:
        raise TrainingError(f"{folder} has no tokenizer; save the one that the model was trained with into it.")
    return tokenizer, readings


def prompts(folder: Path) -> Iterator[str]:
    """Yield what sentence-transformers puts before texts: the model reads it, and the corpus does not have it."""
    path = folder / "config_sentence_transformers.json"
    if path.is_file():
        yield from (json.loads(path.read_bytes()).get("prompts") or {}).values()


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - folders do not need it

    def download(*weights: str) -> Path:
        return Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, *weights], ignore_patterns=["*/*"]))

    try:
        folder = download("model*.safetensors")
        if not any(folder.glob("*.safetensors")):
            download("pytorch_model*.bin")
        if (folder / "modules.json").is_file():
            snapshot_download(name, revision=folder.name, allow_patterns=["[0-9]_*/*"])
    except Exception as error:  # the hub's client, its transport and the disk all raise their own
        raise TrainingError(f"{name} is not a folder, and the hub does not give it: {_line(error)}") from error
    return folder


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
