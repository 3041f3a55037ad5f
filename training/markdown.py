"""Markdown of the reports."""

import re
from collections.abc import Iterable, Sequence


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; numbers with a fraction have three digits after the point."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(text: object) -> str:
    """Return a text as it is, whatever it has: between as many backticks as it takes."""
    shown = " ".join(str(text).split("\n"))
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    edge = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{edge}{shown}{edge}{fence}"


def plain(text: str) -> str:
    """Return a text in which no character marks anything."""
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", text)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")
