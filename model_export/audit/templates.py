"""Templates of sentences, which differ between groups of people in some words only, from a TOML file.

`templates.toml` beside this file shows the form.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from model_export.errors import ExportError, shown

DEFAULT_TEMPLATES: Final = Path(__file__).with_name("templates.toml")
MOST_SENTENCES: Final = 100_000
"""Of a file: their scores are in memory together."""

MASK: Final = "mask"
"""The placeholder of the model's mask token."""
WORD: Final = "word"
"""The placeholder of a filler that has one form only."""

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z_]*)\}")
_KEYS: Final = {"about", "query", "frames", "groups", "matched", "targets"}

Filler = Mapping[str, str]
"""What takes the place of each placeholder, by its name in lower case."""


@dataclass(frozen=True)
class Dimension:
    """One way in which sentences differ. The first group is the one that others are compared with."""

    name: str
    about: str | None
    """What the words are and where they are from."""
    query: str | None
    """What a reranker compares the sentences with."""
    frames: tuple[str, ...]
    """Sentences with placeholders."""
    groups: tuple[str, ...]
    fillers: tuple[tuple[Filler, ...], ...]
    """Of each group."""
    matched: bool
    """Whether the fillers of one number mean the same in all groups, and are compared with each other only."""
    targets: tuple[str, ...]
    """Words for the mask."""

    def with_frames(self, *, of_masks: bool) -> "Dimension":
        """Return it with the frames that have a mask, or with those that have none."""
        frames = tuple(frame for frame in self.frames if (f"{{{MASK}}}" in frame) == of_masks)
        return replace(self, frames=frames)

    def sentence(self, frame: int, group: int, filler: int, mask: str = "") -> str:
        """Return a sentence; numbers count from 0, and `mask` is what takes the place of the mask."""
        words = {**self.fillers[group][filler], MASK: mask}
        return _PLACEHOLDER.sub(lambda found: _form(words, found[1]), self.frames[frame])

    def shown(self, group: int, filler: int) -> str:
        """Return the words of a filler."""
        return " / ".join(self.fillers[group][filler].values())


def read_templates(path: Path) -> list[Dimension]:
    """Read a file of templates.

    Raises:
        ExportError: it is not TOML in UTF-8, or not of this form. The message names the file and the table.
        OSError: it cannot be read.
    """
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is not text in UTF-8. Save it as that.") from error
    except tomllib.TOMLDecodeError as error:
        raise ExportError(f"{path} is not TOML: {error}.") from error
    if not document:
        raise ExportError(f"{path} has no dimension. Copy one from {DEFAULT_TEMPLATES}.")
    try:
        dimensions = [_dimension(name, table) for name, table in document.items()]
    except _WrongError as error:
        raise ExportError(f"{path}: {error}") from error
    count = sum(len(one.frames) * sum(map(len, one.fillers)) for one in dimensions)
    if count > MOST_SENTENCES:
        raise ExportError(f"{path} makes {count} sentences; at most {MOST_SENTENCES} are read. Split the file.")
    return dimensions


class _WrongError(Exception):
    """What is wrong with a table, and what to write."""


def _dimension(name: str, table: Any) -> Dimension:  # noqa: ANN401 - TOML
    if not isinstance(table, dict):
        raise _WrongError(f"{name} is outside of a table. Write [NAME] before the keys of a dimension.")
    try:
        _check_keys(table)
        groups, fillers = _matched(table) if "matched" in table else _groups(table)
        dimension = Dimension(
            name,
            about=_text(table["about"], "about") if "about" in table else None,
            query=_text(table["query"], "query") if "query" in table else None,
            frames=_texts(table.get("frames"), "frames"),
            groups=groups,
            fillers=fillers,
            matched="matched" in table,
            targets=_texts(table["targets"], "targets") if "targets" in table else (),
        )
        _check_frames(dimension)
    except _WrongError as error:
        raise _WrongError(f"[{name}] {error}") from error
    return dimension


def _check_keys(table: Mapping[str, Any]) -> None:
    unknown = sorted(table.keys() - _KEYS)
    if unknown:
        raise _WrongError(f"{shown(unknown[0])} is no key of a dimension: these are {', '.join(sorted(_KEYS))}.")


def _groups(table: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[Filler, ...], ...]]:
    groups = table.get("groups")
    if not isinstance(groups, dict):
        raise _WrongError(
            "groups must be a table with a list of words for each group, or a list of names beside matched."
        )
    _check_names(list(groups))
    for name, words in groups.items():
        if not isinstance(words, list) or not words:
            raise _WrongError(f"groups: {shown(name)} must be a list of words, and not empty.")
    fillers = tuple(tuple(_filler(word, f"groups: {shown(name)}") for word in groups[name]) for name in groups)
    _check_once([filler for group in fillers for filler in group], "groups")
    return tuple(groups), fillers


def _matched(table: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[Filler, ...], ...]]:
    names, rows = _texts(table.get("groups"), "groups"), table["matched"]
    _check_names(names)
    if not isinstance(rows, list) or not rows:
        raise _WrongError("matched must be a list of rows, and not empty.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            raise _WrongError(
                f"matched: row {number} must be a list of {len(names)} texts, one for each of the groups."
            )
    fillers = tuple(tuple(_filler(row[i], "matched") for row in rows) for i in range(len(names)))
    for group in fillers:
        _check_once(group, "matched")
    return names, fillers


def _check_once(fillers: Sequence[Filler], place: str) -> None:
    """Refuse words that are there twice: they would count as two in an interval, and between groups make no difference."""
    twice = next((filler for i, filler in enumerate(fillers) if filler in fillers[:i]), None)
    if twice is not None:
        raise _WrongError(f"{place}: {shown(' / '.join(twice.values()))} is there twice.")


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise _WrongError("groups: there must be two or more; the others are compared with the first.")
    if len(set(names)) < len(names) or not all(map(str.strip, names)):
        raise _WrongError("groups: each must have a name of its own.")


def _filler(value: Any, place: str) -> Filler:  # noqa: ANN401 - TOML
    if not isinstance(value, dict):
        return {WORD: _text(value, place)}
    if not value:
        raise _WrongError(f"{place}: a table of forms is empty.")
    for form in value:
        if not _PLACEHOLDER.fullmatch(f"{{{form}}}") or form != form.lower() or form == MASK:
            raise _WrongError(
                f"{place}: {shown(form)} cannot be the name of a form: use letters in lower case, and not {MASK!r}."
            )
    return {form: _text(text, place) for form, text in value.items()}


def _check_frames(dimension: Dimension) -> None:
    for frame in dimension.frames:
        rest = _PLACEHOLDER.sub("", frame)
        if "{" in rest or "}" in rest:
            raise _WrongError(f"frames: {shown(frame)} has a brace that is part of no placeholder, such as {{word}}.")
        names = [name.lower() for name in _PLACEHOLDER.findall(frame)]
        wanted = set(names) - {MASK}
        if not wanted:
            raise _WrongError(
                f"frames: {shown(frame)} has no placeholder for the words of the groups, such as {{word}}."
            )
        if names.count(MASK) > 1:
            raise _WrongError(f"frames: {shown(frame)} has {names.count(MASK)} masks; write one {{mask}}.")
        if MASK in names and f"{{{MASK}}}" not in frame:
            raise _WrongError(f"frames: {shown(frame)}: write {{mask}} in lower case.")
        if MASK in names and not dimension.targets:
            raise _WrongError(
                f"frames: {shown(frame)} has a mask, and there are no targets, the words to compare there."
            )
        for group, fillers in zip(dimension.groups, dimension.fillers, strict=True):
            for filler in fillers:
                missing = sorted(wanted - filler.keys())
                if missing:
                    raise _WrongError(
                        f"frames: {shown(frame)} has the placeholder {{{missing[0]}}}, which the words of {shown(group)} "
                        f"do not fill: they have {', '.join(f'{{{form}}}' for form in filler)}."
                    )


def _texts(value: Any, key: str) -> tuple[str, ...]:  # noqa: ANN401 - TOML
    if not isinstance(value, list) or not value:
        raise _WrongError(f"{key} must be a list of texts, and not empty.")
    texts = tuple(_text(text, key) for text in value)
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise _WrongError(f"{key}: {shown(twice)} is there twice.")
    return texts


def _text(value: Any, key: str) -> str:  # noqa: ANN401 - TOML
    if not isinstance(value, str) or not value.strip():
        raise _WrongError(f"{key}: {shown(value)} must be a text, and not empty.")
    return value


def _form(words: Mapping[str, str], placeholder: str) -> str:
    """Return the words of a placeholder: {Subject} is {subject} with a capital letter."""
    text = words[placeholder.lower()]
    return text[:1].upper() + text[1:] if placeholder[0].isupper() else text
