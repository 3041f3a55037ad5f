"""Pictures of the reports, as PNG files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font

_DPI: Final = 120
_MOST_NUMBERS: Final = 20
"""Labels, of which a cell of the confusion still has room for its number."""
_LEAST_RANGE: Final = 0.02
"""Of a quality: what differs by less does not look far apart."""


@contextmanager
def _drawing(path: Path, width: float = 6.0, height: float = 4.0) -> Iterator[Any]:
    """Give axes, and write them to the file."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.add_subplot()
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def draw_loss(history: Sequence[Mapping[str, float]], path: Path, lines: Mapping[str, float] | None = None) -> None:
    """Draw the loss by step, of training and held out.

    Args:
        history: What the Trainer logged.
        path: The file.
        lines: Values to compare with, by what they are.
    """
    with _drawing(path) as axes:
        for name, shown in (("loss", "training"), ("eval_loss", "held out")):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            axes.plot(*zip(*points, strict=True), label=shown) if points else None
        for shown, value in (lines or {}).items():
            axes.axhline(value, color="gray", linestyle="--", linewidth=1, label=shown)
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()


def draw_confusion(counts: Any, names: Sequence[str], path: Path) -> None:
    """Draw how often each label is predicted as each other.

    Args:
        counts: [labels, predicted labels]
        names: Of the labels.
        path: The file.
    """
    side = min(3.0 + 0.45 * len(names), 14.0)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with _drawing(path, side, side) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        drawn, fonts = _drawn(names)
        # A dollar sign begins no formula.
        style = {"fontfamily": fonts, "parse_math": False}
        axes.set_xticks(range(len(names)), drawn, rotation=90, **style)
        axes.set_yticks(range(len(names)), drawn, **style)
        axes.set(xlabel="predicted", ylabel="label")
        if len(names) <= _MOST_NUMBERS:
            for row, column in np.ndindex(counts.shape):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color)


def draw_calibration(curves: Mapping[str, Sequence[tuple[float, float, float]]], path: Path) -> None:
    """Draw the share that is right by score.

    Args:
        curves: By name: for each bin, its average score, its share that is right, and its share of the rows.
        path: The file.
    """
    with _drawing(path, 5.0, 5.0) as axes:
        axes.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1, label="as it should be")
        for name, bins in curves.items():
            scores, right, _ = zip(*bins, strict=True)
            axes.plot(scores, right, marker="o", label=name)
        axes.set(xlabel="score of the best label", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend()


def _drawn(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return short names, and the fonts that have their letters; a name whose letters no font has is `(1)`, its number."""
    short = [name if len(name) <= 20 else f"{name[:19]}…" for name in names]
    fonts = ["DejaVu Sans"]
    missing = set().union(*short) - _letters(fontManager.findfont(fonts[0]))
    for font in sorted(fontManager.ttflist, key=lambda font: font.name) if missing else []:
        # That of the last resort has a box for each letter.
        if "Last Resort" not in font.name and (found := missing & _letters(font.fname)):
            fonts.append(font.name)
            missing -= found
    return [f"({i})" if missing.intersection(name) else name for i, name in enumerate(short, 1)], fonts


def _letters(font: str) -> set[str]:
    return {chr(code) for code in get_font(font).get_charmap()}


def draw_trade_off(points: Sequence[tuple[str, float, float, int]], unit: str, path: Path) -> None:
    """Draw models by how fast and how good they are.

    Args:
        points: The name of each, its texts per second, its quality, and its bytes, which the size of the point is of;
            of each model, both precisions follow each other.
        unit: What the quality is.
        path: The file.
    """
    largest = max(size for *_, size in points)
    with _drawing(path, 7.0, 4.5) as axes:
        for i, (name, speed, quality, size) in enumerate(points):
            # A color for each model, and a marker for each of its two precisions.
            look = {"color": f"C{i // 2}", "marker": "os"[i % 2], "s": 30 + 300 * size / largest}
            axes.scatter(speed, quality, alpha=0.6, label=name, **look)
        axes.margins(0.2)
        low, high = axes.get_ylim()
        spare = max(0.0, _LEAST_RANGE - (high - low)) / 2
        axes.set(xlabel="texts/s", ylabel=unit, ylim=(low - spare, high + spare))
        axes.set_xlim(0, 1.1 * max(speed for _, speed, *_ in points))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=1)
