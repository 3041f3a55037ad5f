"""Whether the smaller checkpoint answers as the old one."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers.utils import logging

from training.errors import TrainingError
from training.prune_vocabulary.document import without_others
from training.prune_vocabulary.source import Source, read_tokenizers
from training.prune_vocabulary.usage import batches

SAMPLE: Final = 32
"""Texts that both models read."""
_MOST_TOKENS: Final = 128


@dataclass(frozen=True)
class Checked:
    """What was compared: texts, those with a token that is not there any more, and texts of the sample by their old ids."""

    texts: int
    changed: int
    sample: list[list[int]]


def check_tokens(source: Source, folder: Path, new_ids: Mapping[int, int], texts: Iterable[str]) -> Checked:
    """Compare the tokens of each text.

    Raises:
        TrainingError: a text is cut up otherwise, though all of its tokens are there.
    """
    readings = read_tokenizers(folder)[1]
    for old, new in zip((source.readings[0], source.readings[-1]), readings, strict=True):
        # With the same tokens behind the ids, comparing ids is comparing tokens.
        if without_others(json.loads(old.to_str()), new_ids) != json.loads(new.to_str()):
            raise TrainingError(f"the tokenizer of {source.name} has parts that cannot be pruned.")
    count = changed = unchanged = 0
    sample: list[list[int]] = []
    draw = random.Random(0)  # noqa: S311
    for batch in batches(texts):
        both = [
            (old.encode_batch_fast(batch), new.encode_batch_fast(batch))
            for old, new in zip(source.readings, readings, strict=False)
        ]
        for index in range(len(batch)):
            count += 1
            pairs = [(old[index].ids, new[index].ids) for old, new in both]
            if any(token_id not in new_ids for ids, _ in pairs for token_id in ids):
                changed += 1
                continue
            if any([new_ids[token_id] for token_id in ids] != new for ids, new in pairs):
                raise TrainingError(
                    f"text {count:,} of the corpus is cut into other tokens than before: the tokenizer of {source.name} cannot be "
                    "pruned."
                )
            unchanged += 1
            place = len(sample) if len(sample) < SAMPLE else draw.randrange(unchanged)
            if place < SAMPLE:
                sample[place : place + 1] = [pairs[-1][0]]
    return Checked(count, changed, sample)


def check_answers(source: Source, folder: Path, new_ids: Mapping[int, int], sample: Sequence[Sequence[int]]) -> None:
    """Compare the hidden states of texts after each layer, bit for bit.

    Raises:
        TrainingError: they differ.
    """
    logging.disable_progress_bar()
    # With its head, so that a head whose size is not that of the vocabulary any more is not read.
    kind = getattr(transformers, (source.config.get("architectures") or ["AutoModel"])[0], transformers.AutoModel)
    try:
        old, new = (load_aligned(kind, one) for one in (source.folder, folder))
    except Exception as error:  # transformers has no one class for them
        raise TrainingError(f"transformers cannot read {source.name} or what was made of it: {error}") from error
    # RoBERTa's positions begin after its padding's id.
    positions = old.config.max_position_embeddings - (old.config.pad_token_id or 0) - 1
    for ids in sample:
        cut = ids[: min(positions, _MOST_TOKENS)]
        layers = zip(_hidden(old, cut), _hidden(new, [new_ids[token_id] for token_id in cut]), strict=True)
        if not all(torch.equal(one.view(torch.uint8), other.view(torch.uint8)) for one, other in layers):
            raise TrainingError(
                f"{source.name} answers otherwise without the tokens: it is of a kind that cannot be pruned."
            )


def load_aligned(kind: Any, folder: Path) -> Any:
    """Return a model whose answers depend on its weights alone.

    Read from a file, weights lie at any address, and a product sums in an order that depends on the address.
    """
    # Weights of 16 bits are the same numbers in 32, which every processor multiplies fast.
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _hidden(model: Any, ids: Sequence[int]) -> Any:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
