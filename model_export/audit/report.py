"""The report of an audit: Markdown for people, and CSV files with every gap and every sentence."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Final

from model_export.audit.bootstrap import LEAST, SHARE
from model_export.audit.gaps import Gap
from model_export.audit.scores import Scored

REPORT_FILE: Final = "audit.md"
FIGURE_FILE: Final = "audit.png"
GAPS_FILE: Final = "gaps.csv"
SENTENCES_FILE: Final = "sentences.csv"
FILES: Final = frozenset({REPORT_FILE, FIGURE_FILE, GAPS_FILE, SENTENCES_FILE})

_MOST_LABELS: Final = 5
"""Of each group in the tables and the picture: those with the largest gaps."""

_LIMITS: Final = """\
## What this shows, and what it does not

It shows whether the score of these sentences changes when only those words change, how much, and in which direction. A gap whose
interval is far from 0 is a reason to look closer: at the sentences, the training data, and what the score decides.

- The tables show the largest gaps of many. The largest of many is in part the luckiest.
- No gap here is no proof that there is none: other words, sentences and groups may have one.
- Templates are not your traffic. Put sentences into them that are like those of your callers.
- A word carries more than one meaning. A name tells of class, age and religion too, it is frequent or rare in the training text,
  and it may be several tokens. A place has a news history. A sentence of another dialect has other words, in another order.
- An interval covers the choice of frames and words from more like these, and nothing else. With few of them it is too narrow,
  and with one word a group it says nothing about other words.
- A gap is no error rate. Whether the model is right equally often for each group takes labelled texts by or about these groups.
- A gap does not say what harm a decision on the score does, or whether the model may be used, by law or otherwise.
"""


def unit_of(scored: Sequence[Scored]) -> str:
    """Return what the gaps of a model are differences of."""
    return "log2 of the probability (+1: twice as likely, -1: half as likely)" if scored[0].is_of_masks else "score"


def chosen(gaps: Sequence[Gap]) -> list[Gap]:
    """Return the gaps to show: of each group the largest, largest first."""
    of_groups = groupby(gaps, key=lambda gap: (gap.dimension, gap.group))
    return [gap for _, rows in of_groups for gap in sorted(rows, key=lambda gap: -abs(gap.gap))[:_MOST_LABELS]]


def counts(gaps: Sequence[Gap]) -> str:
    """Return how many comparisons there were, and what chance does with so many."""
    known = [gap for gap in gaps if gap.has_interval]
    apart = sum(gap.is_beyond(0) for gap in known)
    text = (
        f"{len(gaps)} comparisons; {apart} of {len(known)} intervals do not contain 0. If there were no gap at all, "
        f"{(1 - SHARE) * len(known):.2g} or more would not either, by chance: more where sentences are few, and together where they "
        "share a reference."
    )
    few = len(gaps) - len(known)
    return (
        f"{text} Without an interval, for which it takes {LEAST} frames or {LEAST} words a group: {few}."
        if few
        else text
    )


def tables(scored: Sequence[Scored], gaps: Sequence[Gap]) -> Iterator[tuple[Scored, str]]:
    """Yield for each dimension the table of its gaps, in Markdown."""
    for one in scored:
        own = [gap for gap in gaps if gap.dimension == one.dimension.name]
        reference = one.dimension.groups[0]
        mean = "geometric mean of the probability" if one.is_of_masks else "mean score"
        label = "word" if one.is_of_masks else "label"
        heading = [
            "group",
            label,
            f"{mean}, {reference}",
            f"{mean}, group",
            "gap",
            f"{SHARE:.0%} interval",
            "sentences",
        ]
        yield one, _table(heading, [_row(gap, is_of_masks=one.is_of_masks) for gap in chosen(own)])


def write_report(folder: Path, facts: Sequence[tuple[str, str]], scored: Sequence[Scored], gaps: Sequence[Gap]) -> None:
    """Write the report without its picture.

    Args:
        folder: Where to.
        facts: What was audited: names and values.
        scored: The scores of each dimension.
        gaps: All gaps.
    """
    parts = [f"# Audit of {_code(facts[0][1])}", _table(["", ""], [[name, _code(value)] for name, value in facts])]
    parts += [
        f"![Gaps with their intervals]({FIGURE_FILE})",
        f"A gap is the mean of a group's sentences minus that of the reference's. Unit: {unit_of(scored)}.",
    ]
    parts += [f"{counts(gaps)} {GAPS_FILE} has all gaps, {SENTENCES_FILE} all sentences with their scores."]
    for one, table in tables(scored, gaps):
        own = [gap for gap in gaps if gap.dimension == one.dimension.name]
        about = [f"{_plain(one.dimension.about).rstrip('.')}."] if one.dimension.about else []
        parts += [f"## {_plain(one.dimension.name)}", *about, table, *_notes(one, own)]
    (folder / REPORT_FILE).write_text("\n\n".join([*parts, _LIMITS]), encoding="utf-8")
    _write_csv(folder / GAPS_FILE, [field.name for field in fields(Gap)], (list(asdict(gap).values()) for gap in gaps))
    _write_sentences(folder / SENTENCES_FILE, scored)


def _row(gap: Gap, *, is_of_masks: bool) -> list[str]:
    one, other = ((f"{2**mean:.2g}" if is_of_masks else f"{mean:.3f}") for mean in (gap.reference_mean, gap.group_mean))
    interval = f"{gap.low:+.3f} to {gap.high:+.3f}" if gap.has_interval else "too few"
    sentences = f"{gap.reference_sentences}, {gap.group_sentences}"
    return [_plain(gap.group), _plain(gap.label), one, other, f"{gap.gap:+.3f}", interval, sentences]


def _notes(scored: Scored, gaps: Sequence[Gap]) -> Iterator[str]:
    largest = max(gaps, key=lambda gap: abs(gap.largest))
    yield (
        f"The two sentences that are furthest apart: for {_plain(largest.label)}, {_code(largest.group_sentence)} is "
        f"{abs(largest.largest):.3f} {'below' if largest.largest < 0 else 'above'} {_code(largest.reference_sentence)}"
    )
    shown = len(chosen(gaps))
    if shown < len(gaps):
        yield f"Smaller gaps, in {GAPS_FILE} only: {len(gaps) - shown}."
    if scored.left_out:
        yield f"Left out, as they are not one token of the vocabulary in each frame: {', '.join(map(_plain, scored.left_out))}."
    for group, unknown, sentences in zip(scored.dimension.groups, scored.unknown, scored.sentences, strict=True):
        if unknown:
            count = sum(map(len, sentences))
            yield (
                f"{unknown} of {count} sentences of {_plain(group)} have a word for which the vocabulary has no token: the model "
                "does not see which one it is."
            )


def _write_sentences(path: Path, scored: Sequence[Scored]) -> None:
    labels = list(dict.fromkeys(label for one in scored for label in one.labels))
    kind = "log2" if scored[0].is_of_masks else "score"
    _write_csv(
        path,
        ["dimension", "frame", "group", "words", "sentence", *(f"{kind}:{label}" for label in labels)],
        (row for one in scored for row in _sentence_rows(one, labels)),
    )


def _sentence_rows(scored: Scored, labels: Sequence[str]) -> Iterator[list[object]]:
    dimension = scored.dimension
    columns = [scored.labels.index(label) if label in scored.labels else None for label in labels]
    for frame in range(len(dimension.frames)):
        for group, scores in enumerate(scored.scores):
            for filler, row in enumerate(scores[frame].tolist()):
                values = ["" if column is None else row[column] for column in columns]
                sentence = scored.sentences[group][frame][filler]
                words = dimension.shown(group, filler)
                yield [dimension.name, frame + 1, dimension.groups[group], words, sentence, *values]


def _write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows([_number(value) for value in row] for row in rows)


def _number(value: object) -> object:
    """Return a number with the nine digits that one in single precision has, nothing in place of NaN, and other values as they are."""
    return value if not isinstance(value, float) else f"{value:.9g}" if value == value else ""  # noqa: PLR0124


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text on one line, in which no character marks anything."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Return a text on one line as it is, between as many backticks as it takes."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text}{edge}{fence}"
