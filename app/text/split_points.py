"""Places where a long text may be split without changing the tokens on either side.

Of a text that is cut to a model's length, a few hundred tokens are kept. Tokenizing 4 MB for them takes seconds, a tenth of
one with the GIL held. A part of the text is enough if what is left out cannot change its tokens. In the tokenizers of BERT's
family words do not depend on each other: so a part ends between two words, and its tokens are exact up to a word and more
before that. Other tokenizers have no split points, and their texts are tokenized whole.

Source: normalizers, pre-tokenizers and AddedVocabulary of the `tokenizers` library (`tests/app/text/test_split_points.py`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

# ASCII only: Python and Rust differ on which other characters are spaces or marks.
_SPACE: Final = r" \t\n\r"
_MARK: Final = r"!-/:-@\[-`{-~"
_CHINESE: Final = r"\u3001\u3002\uff0c\u3400-\u4dbf\u4e00-\u9fff"
_LOOK_WITHIN: Final = 65536
"""Characters that are searched for a split point with the GIL held: half a millisecond where there is none."""
_GROWTH: Final = 4
_BETWEEN: Final = 64
# These change single characters with their marks, or the ends of a text.
_LOCAL: Final = frozenset(
    {
        *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend"),
        *("Strip", "StripAccents"),
    }
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a text. Its tokens within `exact`, a range of its characters, are those of the whole text."""

    text: str
    begin: int  # characters of the whole text before it
    exact: range


class SplitPoints:
    """Finds places between words."""

    def __init__(self, pattern: str, longest: int = 0, between: int = _BETWEEN) -> None:
        """Compile the pattern.

        Args:
            pattern: What begins a word or stands between two, wherever it is.
            longest: Characters of the longest added token, which a part may cut in two.
            between: Characters between the exact tokens and what may belong to such a token.
        """
        self._pattern: Final = re.compile(pattern)
        self._longest: Final = longest
        self._reach: Final = longest + between

    def parts(self, text: str, direction: Literal["right", "left"], size: int) -> Iterator[Part]:
        """Yield larger and larger parts of a text from the end that is kept, the first of about `size` characters.

        The last is no more than half of the text. There is none of a short text, and none of one that has no split there.
        """
        while 2 * size <= len(text):
            if direction == "right":
                exact = self._next(text, size)
                split = self._next(text, exact + self._reach)
                between = text[exact : split - self._longest]
            else:
                split = self._next(text, max(0, len(text) - size - self._reach))
                exact = self._next(text, split + self._reach)
                between = text[split + self._longest : exact]
            # An added token that is cut in two may be one that takes all spaces beside it: words must stand between.
            if max(exact, split) < len(text) and between.strip():
                if direction == "right":
                    yield Part(text[:split], 0, range(exact))
                else:
                    yield Part(text[split:], split, range(exact - split, len(text) - split))
            size *= _GROWTH

    def piece(self, text: str, begin: int, size: int) -> Part:
        """Return the piece of a text whose exact tokens begin at `begin`, a place between two words, and end about `size` after.

        Words of the text around it are in it, too. It reaches to the end of the text if there is no place to end before.
        """
        start = self._before(text, begin)
        stop = begin + size
        while stop < len(text):
            stop = self._find(text, stop)
            split = self._find(text, stop + self._reach)
            if split < len(text) and text[stop : split - self._longest].strip():
                return Part(text[start:split], start, range(begin - start, stop - start))
            stop += size
        return Part(text[start:], start, range(begin - start, len(text) - start))

    def _before(self, text: str, end: int) -> int:
        """Return a place between two words that is so far before another that an added token cannot reach over both."""
        back = self._reach
        while back < end:
            start = self._next(text, end - back)
            if start <= end - self._reach and text[start + self._longest : end].strip():
                return start
            back *= _GROWTH
        return 0

    def _find(self, text: str, begin: int) -> int:
        """Do as `_next`, however far the place is."""
        while begin < len(text):
            found = self._next(text, begin)
            if found < len(text):
                return found
            begin += _LOOK_WITHIN
        return len(text)

    def _next(self, text: str, begin: int) -> int:
        found = self._pattern.search(text, begin, begin + _LOOK_WITHIN)
        return found.start() if found else len(text)


def split_points_of(definition: Mapping[str, Any]) -> SplitPoints | None:
    """Return the split points for a tokenizer.json with its added tokens as they are sought, None if it may have none."""
    splitters = _flat(definition.get("pre_tokenizer"), "pretokenizers")
    normalizers = _flat(definition.get("normalizer"), "normalizers")
    model, added = definition["model"], definition["added_tokens"]
    if not splitters or not all(map(_splits, splitters)) or not all(_is_local(one, splitters) for one in normalizers):
        return None
    if model["type"] not in {"WordPiece", "BPE", "Unigram", "WordLevel"} or model.get("dropout"):
        return None
    pattern = _pattern(splitters, normalizers)
    texts = [token["content"] for token in added]
    spaces = [re.escape(one["content"]) for one in normalizers if one["type"] == "Replace"]  # what spaces may become
    between = re.compile("|".join([pattern, *spaces]))
    if _overlap(texts) or any(token["normalized"] and between.search(token["content"]) for token in added):
        return None
    return SplitPoints(pattern, max(map(len, texts), default=0))


def _flat(component: Mapping[str, Any] | None, members: str) -> list[Mapping[str, Any]]:
    if component is None:
        return []
    return (
        [one for member in component[members] for one in _flat(member, members)]
        if members in component
        else [component]
    )


def _splits(splitter: Mapping[str, Any]) -> bool:
    """Return whether it ends a word at each space, or does not join words."""
    match splitter["type"]:
        case "ByteLevel":
            return bool(splitter.get("use_regex", True))
        case "Metaspace":
            return bool(splitter.get("split", True))
        case kind:
            return kind in {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}


def _is_local(normalizer: Mapping[str, Any], splitters: Sequence[Mapping[str, Any]]) -> bool:
    if normalizer["type"] != "Replace":
        return normalizer["type"] in _LOCAL
    # Runs of spaces, as sentencepiece writes them: with a space, or with Metaspace's replacement for one.
    names = {" "} | {one["replacement"] for one in splitters if one["type"] == "Metaspace"}
    return normalizer["pattern"] == {"Regex": " {2,}"} and normalizer["content"] in names


def _pattern(splitters: Sequence[Mapping[str, Any]], normalizers: Sequence[Mapping[str, Any]]) -> str:
    """Return the expression for what begins a word or stands between two, whatever is around it."""
    kinds = [one["type"] for one in splitters], [one["type"] for one in normalizers]
    if kinds == (["BertPreTokenizer"], ["BertNormalizer"]):
        return f"[{_SPACE}{_MARK}{_CHINESE if normalizers[0]['handle_chinese_chars'] else ''}]"
    if kinds == (["ByteLevel"], []):
        # Not a mark after a space or another mark, which may be of one word with that.
        return f"[{_SPACE}]|(?<=[0-9A-Za-z])[{_MARK}]"
    return " " if kinds[0] == ["Metaspace"] else f"[{_SPACE}]"


def _overlap(texts: Sequence[str]) -> bool:
    """Return whether one may begin within another: then which of them are found depends on where the search begins."""
    beginnings = {text[:size] for text in texts for size in range(1, len(text))}
    return any(text[-size:] in beginnings for text in texts for size in range(1, len(text)))
