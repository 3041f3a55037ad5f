"""Load a checkpoint: all that a bundle is made of, for one task."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.bundle.manifest import Pooling, ScoreFunction, Source, SpecialToken
from model_export.checkpoint.config import CONFIG_FILE
from model_export.checkpoint.cross_encoder import CrossEncoderSettings, read_cross_encoder
from model_export.checkpoint.fields import ROWS, unknown_fields
from model_export.checkpoint.find import Checkpoint, are_own_classes, choose_task, find_checkpoint
from model_export.checkpoint.json_files import read_json_if_there
from model_export.checkpoint.network import Network
from model_export.checkpoint.sentence_transformers import EmbeddingSettings, read_embedding_settings
from model_export.checkpoint.tensors import read_network, trained_heads
from model_export.checkpoint.tokenizer import CheckpointTokenizer, read_tokenizer
from model_export.checkpoint.tokenizer_choice import TokenizerChoice
from model_export.checkpoint.unmerged_adapters import refuse_wrapped
from model_export.checkpoint.unused import find_unused
from model_export.checkpoint.weights import Weights, open_weights, sha256_of
from model_export.errors import ExportError, few, shown
from model_export.tasks import TaskSpec

_SHORTEST: Final = 3
_LISTS: Final = frozenset({"modules.json", "added_tokens.json"})
"""Files whose keys are no fields."""
_ROUNDED_TO: Final = (8, 16, 32, 64, 128)
"""Multiples to which the rows of embeddings are rounded up, which is no reason for a question."""
_FEW_TOKENS: Final = 0.5
"""Below this share of rows with a token the tokenizer is refused, as that of another model."""
_MOST_TOKENS: Final = 0.9
"""Above this share nothing is said: vocabularies have some unused tokens."""
_Settings = EmbeddingSettings | CrossEncoderSettings | None


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint's network for one task, and what its texts need.

    `mask` is the token whose positions are answered, None if the task answers none. `embedding` is None if the result is
    no embedding, `score_function` unless the task is to score pairs.
    """

    network: Network
    tokenizer: CheckpointTokenizer
    mask: SpecialToken | None
    embedding: EmbeddingSettings | None
    score_function: ScoreFunction | None
    max_length: int
    source: Source


def load_checkpoint(
    name: str,
    revision: str | None,
    *,
    task: str,
    pooling: Pooling | Literal["auto"],
    max_length: int | None,
    tokenizer: TokenizerChoice = "auto",
    warn: Callable[[str], None],
) -> LoadedCheckpoint:
    """Load the checkpoint in the folder `name`, or the one of that name on the hub.

    Args:
        name: A folder, or OWNER/NAME on the hub.
        revision: A branch, tag or commit on the hub.
        task: A task's name, or `auto`.
        pooling: For embeddings; `auto` is what the folder's sentence-transformers files say, else the mean.
        max_length: Maximum tokens of a sequence; None for the checkpoint's.
        tokenizer: Which tokenizer to take if the checkpoint has two.
        warn: Called with what a person should look at.

    Raises:
        ExportError: there is no checkpoint, or it cannot be exported with these options.
    """
    checkpoint = find_checkpoint(name, revision)
    weights = open_weights(checkpoint.folder)
    refuse_wrapped(name, weights.tensors)
    spec = choose_task(checkpoint, task, trained_heads(checkpoint.config, weights))
    _warn_of_own_classes(checkpoint, spec, warn)
    read = read_tokenizer(checkpoint.folder, tokenizer)
    _check_vocabulary(checkpoint, read, spec)
    _question_vocabulary(checkpoint, read, warn, is_named=tokenizer != "auto")
    _check_for_task(checkpoint, read, spec)
    embedding = _embedding_settings(checkpoint, spec, pooling)
    cross_encoder = read_cross_encoder(checkpoint.folder) if spec.head == "sequence-classification" else None
    settings = embedding or cross_encoder
    _check_lower_case(checkpoint, read, settings)
    length = _max_length(checkpoint, read, settings, max_length)
    network = read_network(
        name,
        checkpoint.config,
        spec,
        weights,
        tokenizer_tells_types=read.tells_types,
        embedding=embedding,
    )
    _report_unknown_fields(checkpoint.folder, warn)
    unused = find_unused(name, checkpoint.config, weights)
    if unused:
        warn(
            f"{name} has tensors of no head that can be exported: {few(unused)}. They are left out; "
            "if its answers depend on them, do not use this bundle."
        )
    # A path may have bytes that are no UTF-8, or that this locale takes for none.
    in_unicode = os.fsencode(name).decode(errors="backslashreplace")
    source = Source(checkpoint=in_unicode, revision=checkpoint.revision, sha256=hash_of(weights, embedding))
    return LoadedCheckpoint(
        network=network,
        tokenizer=read,
        mask=spec.mask(read.special_tokens),
        embedding=embedding,
        score_function=cross_encoder.score_function(name) if cross_encoder and spec.has_one_label else None,
        max_length=length,
        source=source,
    )


def _report_unknown_fields(folder: Path, warn: Callable[[str], None]) -> None:
    for file in sorted({row.file for row in ROWS if "/" not in row.file} - _LISTS):
        unknown = unknown_fields(file, read_json_if_there(folder / file))
        if unknown:
            warn(f"{file} has fields that this export does not know and ignores: {few(unknown)}.")


def hash_of(weights: Weights, embedding: EmbeddingSettings | None) -> str:
    """Return the hash over all weight files that a bundle is made of, those of Dense modules included."""
    return sha256_of((*weights.files, *(embedding.weight_files if embedding else ())))


def _warn_of_own_classes(checkpoint: Checkpoint, task: TaskSpec, warn: Callable[[str], None]) -> None:
    architectures = checkpoint.config.architectures
    if task.head is None or not are_own_classes(architectures):
        return
    several = (
        ' If several labels can be right, set problem_type to "multi_label_classification" in its config.json first.'
        if task.result == "labels" and checkpoint.config.problem_type == "single_label_classification"
        else ""
    )
    warn(
        f"{checkpoint.name} is of {few(architectures)}, which transformers does not have: it is exported as a plain "
        f"{checkpoint.config.model_type} with a {task.head} head. Compare some answers with those of the original.{several}"
    )


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, task: TaskSpec) -> None:
    vocab_size = checkpoint.config.vocab_size
    if tokenizer.ids > vocab_size:
        added = tokenizer.added_beyond(vocab_size)
        if added:
            raise ExportError(
                f"The tokenizer of {checkpoint.name} has tokens for which the model has no embeddings: {few(list(map(shown, added)))}. "
                f"They were added after the {vocab_size} of its vocabulary. Load both with transformers, call "
                "model.resize_token_embeddings(len(tokenizer)), save both with save_pretrained() and export that folder; texts without "
                "these tokens get the same answers. Or take the tokens out of the tokenizer: for a special one, name another token of its "
                "vocabulary in tokenizer_config.json."
            )
        raise ExportError(
            f"The tokenizer of {checkpoint.name} has token ids up to {tokenizer.ids - 1}, but "
            f"its {CONFIG_FILE} has a vocab_size of {vocab_size}: they belong to different models. "
            "Replace it with the model's own tokenizer."
        )
    if task.result == "masked-tokens" and tokenizer.special_tokens.mask is None:
        raise ExportError(
            f"The tokenizer of {checkpoint.name} has no mask token. Name it in its tokenizer_config.json, "
            "or choose --task classify."
        )


def _question_vocabulary(
    checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, warn: Callable[[str], None], *, is_named: bool
) -> None:
    """Refuse a vocabulary that is far smaller than the embeddings, unless a person named the tokenizer; warn of one that is smaller."""
    tokens, rows = tokenizer.fast.get_vocab_size(with_added_tokens=True), checkpoint.config.vocab_size
    if tokens > _MOST_TOKENS * rows or rows in {-(-tokens // multiple) * multiple for multiple in _ROUNDED_TO}:
        return
    found = (
        f"The tokenizer of {checkpoint.name} has {tokens} tokens, but its {CONFIG_FILE} has a vocab_size of {rows}: most likely "
        "they belong to different models."
    )
    if tokens < _FEW_TOKENS * rows and not is_named:
        way = "file" if (checkpoint.folder / "tokenizer.json").is_file() else "class"
        raise ExportError(
            f"{found} Replace it with the model's own tokenizer, or say that it is this one with --tokenizer {way}."
        )
    warn(f"{found} Compare some answers with those of the original before you use this bundle.")


def _check_for_task(checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, task: TaskSpec) -> None:
    if task.result == "masked-tokens" and tokenizer.splits_special_tokens:
        raise ExportError(
            f"The tokenizer of {checkpoint.name} reads special tokens within a text as text (split_special_tokens), so it finds no "
            "mask to fill. Set split_special_tokens to false in its tokenizer_config.json."
        )
    if task.inputs == "question" and tokenizer.pads_left:
        raise ExportError(
            f"The tokenizer of {checkpoint.name} has the padding_side left, with which transformers puts the context before the "
            'question; only the question first can be exported. Set padding_side to "right" in its tokenizer_config.json if the '
            "model was trained so."
        )
    if tokenizer.tells_types and 1 < checkpoint.config.token_types <= tokenizer.last_type:
        raise ExportError(
            f"The tokenizer of {checkpoint.name} gives the token type {tokenizer.last_type}, but its {CONFIG_FILE} has a "
            f"type_vocab_size of {checkpoint.config.token_types}. Replace it with the model's own tokenizer."
        )


def _embedding_settings(
    checkpoint: Checkpoint, task: TaskSpec, pooling: Pooling | Literal["auto"]
) -> EmbeddingSettings | None:
    if task.result != "embedding":
        if pooling != "auto":
            raise ExportError(f"--pooling {pooling} is for --task embed, but the task is {task.name}. Leave it out.")
        return None
    return read_embedding_settings(checkpoint.folder, pooling)


def _check_lower_case(checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, settings: _Settings) -> None:
    if settings and settings.lowercases and tokenizer.fast.encode("A").ids != tokenizer.fast.encode("a").ids:
        raise ExportError(
            f"{checkpoint.name} expects texts in lower case, but its tokenizer does not lowercase them. "
            "Add a Lowercase normalizer to its tokenizer.json."
        )


def _max_length(
    checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, settings: _Settings, requested: int | None
) -> int:
    positions = checkpoint.config.positions - checkpoint.config.position_offset
    own = settings.max_length if settings and settings.max_length else tokenizer.max_length  # as sentence-transformers
    max_length = min(positions, own or positions) if requested is None else requested
    if max_length > positions:
        raise ExportError(f"--max-length {requested} exceeds the {positions} positions of {checkpoint.name}. Lower it.")
    if max_length < _SHORTEST:
        raise ExportError(f"A maximum length of {max_length} tokens leaves no room for text. Raise --max-length.")
    return max_length
