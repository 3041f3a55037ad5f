"""Which tokens stay."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from training.prune_vocabulary.document import entries, map_ids, parts

_BYTE: Final = re.compile("<0x[0-9A-F]{2}>")


def needed_ids(document: Mapping[str, Any], used: Iterable[int]) -> set[int]:
    """Return the ids of a tokenizer.json that stay, so that texts of `used` ids are cut up as before, and any other is spelt out.

    These are the used and the special tokens, all that are a single character or a byte, and what the tokenizer's algorithm needs:
    the tokens that a used one is merged from, and the lowest score, from which Unigram takes that of an unknown character.
    """
    needed = set(used)

    def add(token_id: int) -> int:
        needed.add(token_id)
        return token_id

    map_ids(document, add)
    model = document["model"]
    needed |= {token_id for token, token_id in entries(model) if _spells(model, token)}
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        needed.add(scores.index(min(scores)))
    if model["type"] == "BPE":
        needed |= _merged_from(model, needed)
    return needed


def _spells(model: Mapping[str, Any], token: str) -> bool:
    if token == model.get("unk_token") or (model.get("byte_fallback") and _BYTE.fullmatch(token)):
        return True
    start, end = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    return len(token) == 1 or len(token.removeprefix(start).removesuffix(end)) == 1


def _merged_from(model: Mapping[str, Any], needed: Iterable[int]) -> set[int]:
    vocabulary: dict[str, int] = model["vocab"]
    tokens = {token_id: token for token, token_id in vocabulary.items()}
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for merge in model["merges"]:
        *pair, merged = parts(model, merge)
        sources[merged].update(pair)
    found: set[str] = set()
    rest = [tokens[token_id] for token_id in needed if token_id in tokens]
    while rest:
        token = rest.pop()
        if token not in found:
            found.add(token)
            rest += sources[token]
    return {vocabulary[token] for token in found}
