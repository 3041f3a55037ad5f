"""A tokenizer.json with fewer tokens."""

from collections.abc import Callable, Mapping
from typing import Any


def entries(model: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the tokens of the model and their ids."""
    if model["type"] == "Unigram":
        return [(token, token_id) for token_id, (token, _) in enumerate(model["vocab"])]
    return list(model["vocab"].items())


def parts(model: Mapping[str, Any], merge: str | list[str]) -> tuple[str, str, str]:
    """Return the two tokens of a merge, and the one that they make."""
    # Files of before tokenizers 0.20 have a text with a space in it.
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second, first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def without_others(document: dict[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Return the document with the tokens of `new_ids` alone, numbered so. The argument is used up."""
    model = document["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for token_id, entry in enumerate(model["vocab"]) if token_id in new_ids]
    else:
        model["vocab"] = {token: new_ids[token_id] for token, token_id in entries(model) if token_id in new_ids}
    if model["type"] == "BPE":
        model["merges"] = [
            merge for merge in model["merges"] if all(part in model["vocab"] for part in parts(model, merge))
        ]
    map_ids(document, new_ids.__getitem__)
    return document


def map_ids(document: Mapping[str, Any], change: Callable[[int], int]) -> None:
    """Change each id that stands outside the vocabulary, in place: of added, unknown and padding tokens, and of templates."""
    for token in document["added_tokens"]:
        token["id"] = change(token["id"])
    if document["model"].get("unk_id") is not None:
        document["model"]["unk_id"] = change(document["model"]["unk_id"])
    if document.get("padding"):
        document["padding"]["pad_id"] = change(document["padding"]["pad_id"])
    if document.get("post_processor"):
        _map_processor(document["post_processor"], change)


def _map_processor(processor: Mapping[str, Any], change: Callable[[int], int]) -> None:
    for one in processor.get("processors", ()):
        _map_processor(one, change)
    for name in ("sep", "cls"):
        if name in processor:
            processor[name][1] = change(processor[name][1])
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [change(token_id) for token_id in token["ids"]]
