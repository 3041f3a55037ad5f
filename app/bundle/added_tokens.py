"""Added tokens as the `tokenizers` library seeks them: some in a text as it is, some in the normalized text."""

from collections.abc import Callable, Iterable


def as_sought(tokens: Iterable[tuple[int, str, bool]], normalize: Callable[[str], str]) -> list[str]:
    """Return the text that each added token is sought as.

    Args:
        tokens: The id and the content of each, and whether it is sought in the normalized text.
        normalize: Returns the normalized form of a text.

    Raises:
        ValueError: nothing is left of one, or two are sought as the same text. The library finds the former everywhere and
            fails on text that is not ASCII; of the latter it takes one or the other, from load to load.
    """
    sought = []
    ids: dict[str, int] = {}
    for id_, content, is_normalized in tokens:
        text = normalize(content) if is_normalized else content
        if is_normalized and not text:
            raise ValueError(f"nothing of the added token with id {id_}")
        if is_normalized and ids.setdefault(text, id_) != id_:
            raise ValueError(f"the same of the added tokens with ids {ids[text]} and {id_}")
        sought.append(text)
    return sought
