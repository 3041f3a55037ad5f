"""Pictures of the reports, as PNG files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DPI: Final = 120
_MOST_NUMBERS: Final = 20
"""Labels, of which a cell of the confusion still has room for its number."""


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
        axes.set_xticks(range(len(names)), [_short(name) for name in names], rotation=90)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
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


def _short(name: str) -> str:
    # A dollar sign begins a formula.
    return (name if len(name) <= 20 else f"{name[:19]}…").replace("$", r"\$")
