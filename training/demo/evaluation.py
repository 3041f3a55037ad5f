"""How good the checkpoint is, by source."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from transformers import Trainer

from training.demo.network import DemoBert
from training.demo.rated import Sentence
from training.demo.together import Rated, TogetherCollator
from training.errors import tell
from training.pretrain.corpus import Corpus
from training.pretrain.held_out import MEASURES, held_out_examples

EXAMPLES: Final = ("He drank a cup of [MASK].", "A doctor works in a [MASK].", "The capital of France is [MASK].")
_BEST: Final = 5
_BATCH: Final = 64


def tokens_of(sentences: Sequence[Sentence], tokenizer: Any, max_length: int) -> list[Rated]:
    """Return sentences as tokens, with the number of their label."""
    ids = tokenizer([one.text for one in sentences], truncation=True, max_length=max_length)["input_ids"]
    return [Rated(one, int(sentence.is_positive)) for one, sentence in zip(ids, sentences, strict=True)]


def sentiment_by_kind(
    model: DemoBert, sentences: Sequence[Sentence], rated: Sequence[Rated], collator: TogetherCollator
) -> dict[str, tuple[int, float]]:
    """Return for each kind of text how many sentences there are, and the share of them that is right."""
    right: dict[str, list[bool]] = defaultdict(list)
    model.eval()
    order = np.argsort([len(one.ids) for one in rated])  # less padding
    with torch.inference_mode():
        for begin in range(0, len(order), _BATCH):
            chosen = order[begin : begin + _BATCH]
            batch = {name: value.to(model.device) for name, value in collator.rated([rated[i] for i in chosen]).items()}
            best = model.sentiment(**batch).argmax(-1).tolist()
            for i, label in zip(chosen, best, strict=True):
                right[sentences[i].source].append(label == rated[i].label)
    return {source: (len(found), float(np.mean(found))) for source, found in right.items()}


def words_by_source(
    trainer: Trainer, parts: Mapping[str, Corpus], tokenizer: Any, *, max_length: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return for each source of texts how well its held-out documents are guessed."""
    figures = {}
    for name, corpus in parts.items():
        tell(f"Held-out documents of {name}:")
        found = trainer.evaluate(held_out_examples(corpus, tokenizer, max_length=max_length, seed=seed))
        figures[name] = {measure: found[f"eval_{measure}"] for measure in MEASURES}
    return figures


def filled(model: DemoBert, tokenizer: Any) -> dict[str, list[str]]:
    """Return the likeliest words of each of some sentences."""
    model.eval()
    words = {}
    for text in EXAMPLES:
        inputs = tokenizer(text, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            hidden = model.bert(**inputs).last_hidden_state[inputs["input_ids"] == tokenizer.mask_token_id]
            best = model.cls.predictions(hidden)[0].topk(_BEST).indices
        words[text] = tokenizer.convert_ids_to_tokens(best.tolist())
    return words
